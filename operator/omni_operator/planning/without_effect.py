"""Settings of a valid spec that cannot have an effect. The condition Accepted lists them. Pure."""

from collections.abc import Iterator

from omni_operator.crd.spec.pipeline import OmniPipeline, Spec

DEFAULT_REPLICAS = Spec.model_fields["replicas"].default


def without_effect(pipeline: OmniPipeline) -> Iterator[str]:
    """Each such setting, and why. A setting that has its default is not one of them."""
    spec = pipeline.spec
    if spec.replicas != DEFAULT_REPLICAS and pipeline.scaled_stage is None:
        yield f"spec.replicas is {spec.replicas} and has no effect, because every stage has a count of its own"
    if spec.network_policy.clients and spec.network_policy.mode == "none":
        yield "spec.networkPolicy.clients has no effect, because spec.networkPolicy.mode is none"
