"""The Job that decides where the volume of a cache is, before models are downloaded into it.

With a storage class whose binding mode is `WaitForFirstConsumer`, the first pod that mounts a claim decides in which
zone its volume is. A download needs no device, so it could run where no device is. This Job's pod is that of the stage,
with its devices and all it says about nodes, but only prints the version of `omni`. It exists until the claim is bound.
"""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.claims import ONE_NODE
from omni_operator.planning.manifests.pod import Surroundings, omni_container, pod_template, users_annotations
from omni_operator.planning.manifests.prefetch import job, loading_process, pod_with_cache, prefetched_models
from omni_operator.planning.topology.records import Process, Topology

# What a stage's pods have because they serve.
FIELDS_OF_SERVERS = frozenset(
    {"containers", "initContainers", "volumes", "readinessGates", "restartPolicy", "terminationGracePeriodSeconds"}
)
CONTAINER_FIELDS = ("name", "image", "imagePullPolicy", "securityContext", "resources")


def volume_bindings(pipeline: OmniPipeline, topology: Topology, surroundings: Surroundings) -> list[Object]:
    """One if models are downloaded into a volume of one node, for a stage with devices; otherwise none."""
    cache = pipeline.spec.model.cache
    if cache is None or cache.size is None or cache.access_mode != ONE_NODE:
        return []
    loading = [loading_process(pipeline, topology, process) for _, process in prefetched_models(pipeline, topology)]
    with_devices = [process for process in loading if process.devices]
    return [volume_binding(pipeline, process, surroundings) for process in with_devices[:1]]


def volume_binding(pipeline: OmniPipeline, process: Process, surroundings: Surroundings) -> Object:
    """The Job with a pod that is scheduled like those of the process, and mounts the cache."""
    template = pod_template(pipeline, process, surroundings, keys="")
    serving: dict[str, Any] = template.get("spec") or {}
    omni = omni_container(serving)
    container = {**{key: omni[key] for key in CONTAINER_FIELDS if key in omni}, "args": ["--version"]}
    pod = {
        **{key: value for key, value in serving.items() if key not in FIELDS_OF_SERVERS},
        **pod_with_cache(pipeline, process, container),
    }
    # The status reports its pod as one of a download.
    pod_labels = {**labels.common(pipeline.name), labels.ROLE: labels.PREFETCH}
    metadata = {"labels": pod_labels, "annotations": users_annotations(template)}
    own_labels = {**labels.common(pipeline.name), labels.ROLE: labels.BINDING}
    return job(pipeline, "bind", own_labels, {"metadata": metadata, "spec": pod})
