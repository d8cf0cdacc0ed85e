"""The Jobs that download a pipeline's models into its cache before pods with devices start: one for each model.

The pod of a Job is one of the stage that loads the model, as far as a download needs it: with the same proxies,
certificates, resources and annotations from the user's template, and without devices. It runs where all pods with the
cache may run, because a volume may become bound to the nodes where it is first used.

A Job cannot be changed, so its name contains a hash of what it downloads and how. It retries up to ATTEMPTS times; then
the plan replaces it. While it fails, because a token is wrong or the hub is unavailable, the pipeline's status says so.
"""

from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.pod_template import CONTAINER
from omni_operator.crd.spec.parts import Model
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels, pod_settings
from omni_operator.planning.manifests.budgets import DOWNLOAD_REQUESTS, DOWNLOAD_SCRATCH
from omni_operator.planning.manifests.claims import CACHE_DIR, CACHE_VOLUME, ONE_NODE, cache_of
from omni_operator.planning.manifests.ownership import child, content_hash
from omni_operator.planning.manifests.placement import REQUIRED, placement, where_all_run
from omni_operator.planning.manifests.pod import (
    Surroundings,
    confined_container,
    hub_environment,
    merged_template,
    pod_template,
    settings_of,
)
from omni_operator.planning.topology.model_sources import is_on_hub
from omni_operator.planning.topology.records import Process, Topology

ATTEMPTS = 1000
"""Retries of the Job: some days' worth, because Kubernetes waits up to five minutes before each of them."""
# What a user's template says about pods with devices, or about pods that serve.
POD_FIELDS_OF_SERVERS = frozenset(
    {
        "containers",
        "resourceClaims",
        "runtimeClassName",
        "restartPolicy",
        "activeDeadlineSeconds",
        "terminationGracePeriodSeconds",
        "topologySpreadConstraints",
        "nodeSelector",
        "tolerations",
        "affinity",
        "readinessGates",
    }
)
CONTAINER_FIELDS_OF_DOWNLOADS = frozenset(
    {"name", "image", "imagePullPolicy", "env", "envFrom", "resources", "securityContext", "volumeMounts"}
)


def prefetch_jobs(pipeline: OmniPipeline, topology: Topology, surroundings: Surroundings) -> list[Object]:
    """One for each model of the hub; none if the pipeline asks for none or is suspended."""
    return [
        prefetch_job(pipeline, topology, model, process, surroundings)
        for model, process in prefetched_models(pipeline, topology)
    ]


def prefetched_models(pipeline: OmniPipeline, topology: Topology) -> list[tuple[Model, Process]]:
    """The models to download first, each with the process of a stage that loads it."""
    cache = pipeline.spec.model.cache
    if cache is None or not cache.prefetch or pipeline.spec.suspend:
        return []
    loading: dict[str, tuple[Model, Process]] = {}
    # If several stages load a model, the one with devices says where it is fetched: such nodes are rarer.
    for process in sorted(topology.replicas, key=lambda process: not process.devices):
        model = pipeline.model_of(process.stage)
        if is_on_hub(model):
            loading.setdefault(model_argument(model), (model, process))
    return list(loading.values())


def cache_placement(
    pipeline: OmniPipeline, topology: Topology, process: Process, surroundings: Surroundings
) -> dict[str, Any]:
    """Where a pod that fetches a model for a process runs: as the process does, and if possible as all with the cache.

    A volume that only one node can have has to be where all of them may run, and beside the pods that have it. The pods
    of downloads are among those that the affinity selects, because a pod may start alone only if its own affinity
    selects it.
    """
    own = loading_process(pipeline, topology, process)
    sharing = [one for one in topology.processes if cache_of(pipeline, one) and has_pods(one) and one is not own]
    pod, *others = (pod_template(pipeline, one, surroundings, keys="").get("spec") or {} for one in (own, *sharing))
    cache = pipeline.spec.model.cache
    if cache is None or cache.access_mode != ONE_NODE:
        return placement(pod, others)
    result = where_all_run([pod, *others])
    roles = {"key": labels.ROLE, "operator": "In", "values": [labels.REPLICA, labels.PREFETCH]}
    selector = {"matchLabels": dict(labels.pipeline_selector(pipeline.name)), "matchExpressions": [roles]}
    beside = {"podAffinity": {REQUIRED: [{"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}]}}
    return {**result, "affinity": {**result.get("affinity", {}), **beside}}


def prefetch_job(
    pipeline: OmniPipeline, topology: Topology, model: Model, process: Process, surroundings: Surroundings
) -> Object:
    """The Job that downloads a model for a process, into the cache."""
    own_labels = {**labels.common(pipeline.name), labels.ROLE: labels.PREFETCH}
    container = {
        **confined_container(pipeline, surroundings),
        "args": ["fetch", model_argument(model)],
        "env": [{"name": "HOME", "value": "/tmp"}, *hub_environment(CACHE_DIR, model.token_secret_ref)],
    }
    pod = pod_with_cache(pipeline, process, container)
    settings = settings_of(pipeline, loading_process(pipeline, topology, process))
    patches = [without_devices(one) for one in pod_settings.patches(settings, labels.pipeline_selector(pipeline.name))]
    template = without_missing_volumes(
        merged_template(pipeline, surroundings, {"labels": own_labels}, pod, patches, {"requests": DOWNLOAD_REQUESTS})
    )
    template["spec"] |= cache_placement(pipeline, topology, process, surroundings)
    return job(pipeline, "fetch", own_labels, template)


def pod_with_cache(pipeline: OmniPipeline, process: Process, container: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a Job's pod with one container, which has the cache of a process."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": CACHE_VOLUME, "mountPath": CACHE_DIR}]
    return {
        "restartPolicy": "OnFailure",
        "containers": [{**container, "volumeMounts": mounts}],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": DOWNLOAD_SCRATCH}},
            {"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": cache_of(pipeline, process)}},
        ],
    }


def job(pipeline: OmniPipeline, verb: str, own_labels: Mapping[str, str], template: Mapping[str, Any]) -> Object:
    """A Job of the pipeline. `verb`: what it does, in its name."""
    spec = {"backoffLimit": ATTEMPTS, "template": template}
    queue = labels.of_queue(pipeline.metadata.labels)  # Kueue lets no Job that has started change it
    name = f"{pipeline.name}-{verb}-{content_hash([spec, queue])[:6]}"
    return child(pipeline, "batch/v1", "Job", name, {**queue, **own_labels}, {"spec": spec})


def loading_process(pipeline: OmniPipeline, topology: Topology, process: Process) -> Process:
    """The process whose pods load the model of a stage: the head, if the stage has no other pods."""
    is_in_head = process.stage is pipeline.spec.stages[pipeline.head_stage] and pipeline.spec.head.local_replicas
    return topology.head if is_in_head and not has_pods(process) else process


def has_pods(process: Process) -> bool:
    """Whether a process has pods, or may get some by autoscaling."""
    return bool(process.copies or process.stage.autoscaling)


def without_devices(template: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a user's template that a download needs too."""
    spec = template.get("spec") or {}
    containers = [
        {key: value for key, value in one.items() if key in CONTAINER_FIELDS_OF_DOWNLOADS}
        for one in spec.get("containers") or []
        if one["name"] == CONTAINER  # a sidecar that does not end would keep the Job from ending
    ]
    kept = {key: value for key, value in spec.items() if key not in POD_FIELDS_OF_SERVERS}
    if spec.get("initContainers"):
        kept["initContainers"] = [without_own_devices(one) for one in spec["initContainers"]]
    if containers:
        kept["containers"] = [without_own_devices(one) for one in containers]
    return {**template, "spec": kept}


def without_own_devices(container: Mapping[str, Any]) -> dict[str, Any]:
    """A container without extended resources, such as `nvidia.com/gpu`, and without claims of devices."""
    resources = container.get("resources")
    if not isinstance(resources, Mapping):
        return dict(container)
    kept = {
        kind: {name: amount for name, amount in amounts.items() if "/" not in name}
        for kind, amounts in resources.items()
        if kind != "claims" and isinstance(amounts, Mapping)
    }
    return {**container, "resources": {kind: amounts for kind, amounts in kept.items() if amounts}}


def without_missing_volumes(template: Mapping[str, Any]) -> dict[str, Any]:
    """A pod template without mounts of volumes that only serving pods have, such as /dev/shm."""
    spec = dict(template["spec"])
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    for kind in ("initContainers", "containers"):
        if kind in spec:
            spec[kind] = [
                {**one, "volumeMounts": [mount for mount in one["volumeMounts"] if mount.get("name") in volumes]}
                if one.get("volumeMounts")
                else one
                for one in spec[kind]
            ]
    return {**template, "spec": spec}


def model_argument(model: Model) -> str:
    return f"{model.source}@{model.revision}" if model.revision else model.source
