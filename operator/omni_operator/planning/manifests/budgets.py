"""What the operator's pods ask of their nodes by default: CPU, memory and disk, and how much a scratch volume may hold.

The requests are what the smallest model needs. So the scheduler and the kubelet know that a pod uses something, and a
node under pressure does not evict it first. Users set what their model needs in `resources`.
"""

from collections.abc import Mapping
from typing import Any

from omni_operator.crd.quantities import as_quantity, integer_quantity
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.topology.records import Process

REQUESTS = {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "1Gi"}
DOWNLOAD_REQUESTS = {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "100Mi"}
DOWNLOAD_SCRATCH = "1Gi"
HEAD_MEMORY = 3 * 2**30
"""Bytes of memory of a head without replicas, beside the bodies of requests and the results that it keeps. Results of
running requests count, and shared memory too."""
BODIES = "512Mi"
"""The worker's default for the bodies of all requests together."""
SCRATCH = 16 * 2**30
"""Bytes that a process may keep in /tmp beside models and videos."""
MODELS = 1024 * 2**30
"""Bytes of models in /tmp, where a process without a cache downloads them to."""
VIDEOS = "10Gi"
"""What the worker keeps of videos by default."""
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
SAFE_LOCAL_VOLUMES = f"{SAFE_TO_EVICT}-local-volumes"
UNREACHABLE_SECONDS = 30
"""How long a head stays on a node that does not answer. It holds no device, so another node can run it."""
SHARED_MEMORY = "16Gi"
HEAD_SHARED_MEMORY = "1Gi"


def default_resources(pipeline: OmniPipeline, process: Process) -> dict[str, dict[str, str]]:
    """The resources of the worker's container, without devices, as far as the user sets none."""
    if process.data_ports or not process.is_head:
        return {"requests": REQUESTS}
    # A body is in memory twice while it is read.
    api = pipeline.spec.api
    memory = HEAD_MEMORY + 2 * integer_quantity(api.limits.total_body_size or BODIES)
    if api.result_cache_size:
        memory += integer_quantity(api.result_cache_size)
    return {"requests": REQUESTS, "limits": {"memory": as_quantity(memory)}}


def with_defaults(container: Mapping[str, Any], defaults: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A container with requests and limits for what it names neither a request nor a limit of."""
    given = container.get("resources") or {}
    named = {*(given.get("requests") or {}), *(given.get("limits") or {})}
    added = {
        kind: {**(given.get(kind) or {}), **{name: amount for name, amount in amounts.items() if name not in named}}
        for kind, amounts in defaults.items()
    }
    return {**container, "resources": {**given, **{kind: amounts for kind, amounts in added.items() if amounts}}}


def eviction(pipeline: OmniPipeline, process: Process) -> dict[str, str]:
    """Whether the cluster autoscaler may remove the node of a pod, although the pod has files in /tmp."""
    holds_videos = process.is_head and pipeline.spec.videos.storage is None
    return {SAFE_TO_EVICT: "false"} if holds_videos else {SAFE_LOCAL_VOLUMES: "tmp"}


def scratch(pipeline: OmniPipeline, process: Process) -> str:
    """How much a process may keep in /tmp."""
    size = SCRATCH
    if process.downloads and pipeline.spec.model.cache is None:
        size += MODELS
    if process.is_head and pipeline.spec.videos.storage is None:
        size += integer_quantity(pipeline.spec.videos.max_size or VIDEOS)
    return as_quantity(size)


def shared_memory(process: Process) -> str:
    """The size of /dev/shm."""
    if not process.data_ports:
        return HEAD_SHARED_MEMORY
    return process.stage.shm_size or SHARED_MEMORY


def lost_nodes(process: Process) -> list[dict[str, Any]]:
    """The tolerations by which a head leaves a node that does not answer. Kubernetes itself waits five minutes."""
    keys = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable") if process.is_head else ()
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNREACHABLE_SECONDS}
        for key in keys
    ]
