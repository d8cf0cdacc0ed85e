"""What a manifest means on this machine: what cannot run here, and what differs from a cluster."""

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from omni_operator.crd import manifest_file
from omni_operator.crd.pod_template import CONTAINER
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.local.errors import LocalFailure
from omni_operator.planning.topology.files import endpoint_key_name
from omni_operator.planning.topology.model_sources import IMAGE, PVC
from omni_operator.planning.topology.records import Topology

ENDPOINT_KEY = "OMNI_ENDPOINT_KEY_"
"""Before the stage's name, in capitals: the variable with the key of the server that a stage is."""


def require_local_models(pipeline: OmniPipeline) -> None:
    """Check that this machine can read every model.

    Raises ManifestError for a model in a volume of a cluster or in an image, and LocalFailure for a folder that does
    not exist.
    """
    for path, model in pipeline.models.items():
        source = model.source
        if source.startswith(PVC):
            raise manifest_file.ManifestError(
                f"{path}.source: {source} is a volume of a cluster; give `omni up` a folder of this machine, builtin://"
                " or hf://"
            )
        if source.startswith(IMAGE):
            raise manifest_file.ManifestError(
                f"{path}.source: {source} is an image, which only a cluster mounts; give `omni up` the folder that it"
                " was made from, builtin:// or hf://"
            )
        if source.startswith("/") and not Path(source).is_dir():
            raise LocalFailure(f"{path}.source: there is no folder {source} on this machine")
    for index, stage in enumerate(pipeline.spec.stages):
        for place, lora in enumerate(stage.loras):
            if lora.source.startswith((PVC, IMAGE)):
                raise manifest_file.ManifestError(
                    f"spec.stages[{index}].loras[{place}].source: only a cluster mounts {lora.source}; give `omni up` a"
                    " file or folder of this machine, or hf://"
                )


def take_endpoint_keys(pipeline: OmniPipeline, environment: MutableMapping[str, str]) -> dict[str, str]:
    """The keys of servers that are stages, by the names of their files, taken out of the environment, so that no other
    process than the head gets them.

    Raises ManifestError if one is missing.
    """
    keys = {}
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.endpoint is None or stage.endpoint.api_key_secret_ref is None:
            continue
        variable = f"{ENDPOINT_KEY}{stage.name.upper().replace('-', '_')}"
        key = environment.pop(variable, "")
        if not key.strip():
            raise manifest_file.ManifestError(
                f"spec.stages[{index}].endpoint.apiKeySecretRef: there are no Secrets here; set {variable} to the key"
                f" of {stage.endpoint.url}"
            )
        keys[endpoint_key_name(stage)] = key
    return keys


def differences_from_cluster(pipeline: OmniPipeline, topology: Topology, gpu_count: int) -> Iterator[str]:
    """The parts of the manifest that work differently here, each as a sentence for the user."""
    needed = sum(process.devices for process in topology.processes)
    if needed and not gpu_count:
        yield "there is no GPU on this machine, so the replicas run on the CPU"
    elif needed > gpu_count:
        yield f"the replicas ask for {needed} GPUs and this machine has {gpu_count}, so they share"
    if empty := topology.stages_without_replicas:
        stages = "stage" if len(empty) == 1 else "stages"
        yield f"no replica is asked for of {stages} {', '.join(empty)}, so requests will wait"
    if any(_templates(pipeline)):
        yield "of the templates only plain env values of the container omni are used; the rest is a cluster's"
    if pipeline.spec.api_key_secret_ref:
        yield "every client of this machine may come, since there are no Secrets with keys here"
    if any(model.token_secret_ref for model in pipeline.models.values()):
        yield "the hub token is taken from HF_TOKEN here, since there are no Secrets"


def template_environment(pipeline: OmniPipeline) -> Mapping[str, str]:
    """The plain environment variables that the pod templates give to the container omni."""
    return {
        entry["name"]: str(entry["value"])
        for template in _templates(pipeline)
        for container in (template.get("spec") or {}).get("containers") or []
        if container.get("name") == CONTAINER
        for entry in container.get("env") or []
        if "value" in entry
    }


def _templates(pipeline: OmniPipeline) -> list[dict[str, Any]]:
    """The pod templates of the stages and, last, of the head, whose values override those of the stages."""
    return [*(stage.template for stage in pipeline.spec.stages), pipeline.spec.head.template]
