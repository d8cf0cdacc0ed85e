"""Settings of a valid spec that cannot have an effect. The condition Accepted lists them. Pure."""

from collections.abc import Iterator

from omni_operator.crd.spec.pipeline import OmniPipeline, Spec

DEFAULT_REPLICAS = Spec.model_fields["replicas"].default


def without_effect(pipeline: OmniPipeline) -> Iterator[str]:
    """Each such setting, and why. A setting that has its default is not one of them."""
    spec = pipeline.spec
    are_servers = all(stage.is_endpoint for stage in spec.stages)
    if spec.replicas != DEFAULT_REPLICAS and pipeline.scaled_stage is None:
        why = "every stage is a server elsewhere" if are_servers else "every stage has a count of its own"
        yield f"spec.replicas is {spec.replicas} and has no effect, because {why}"
    if are_servers:
        yield f"spec.model is {spec.model.source} and has no effect, because every stage is a server elsewhere"
    if spec.network_policy.clients and spec.network_policy.mode == "none":
        yield "spec.networkPolicy.clients has no effect, because spec.networkPolicy.mode is none"
