"""The pod template of a process: its container, probes, devices, volumes and security settings."""

import math
from typing import Any

from omni_operator.crd import pod_template as template
from omni_operator.crd.spec.parts import SecretKey
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.claims import CACHE_DIR, CACHE_VOLUME, VIDEOS_VOLUME, cache_of, videos_of
from omni_operator.planning.manifests.config import keys_name
from omni_operator.planning.manifests.ownership import content_hash
from omni_operator.planning.topology.files import (
    API_KEYS_DIR,
    API_KEYS_FILE,
    KEYS_DIR,
    STAGE_CONFIG_DIR,
    TLS_DIR,
    VIDEOS_DIR,
)
from omni_operator.planning.topology.model_sources import MODELS_DIR
from omni_operator.planning.topology.records import CLUSTER_HEAD, Process, Topology

CONFIG_HASH = "omnipipeline.dev/config-hash"
KEYS_HASH = "omnipipeline.dev/keys-hash"
METRICS_SCHEME = "prometheus.io/scheme"
DATABASE_URL = "OMNI_DATABASE_URL"
API_KEYS_VOLUME = "api-keys"
TLS_VOLUME = "tls"
USER = 65532
"""User and group id of every container."""
DRAIN_MARGIN_SECONDS = 30
"""Time that a pod may take to end beyond the drain of its process."""
STARTUP_PERIOD_SECONDS = 2
ACCELERATED_THREADS = "1"
"""CPU threads of an operation in a process with devices. Without it every replica takes all cores of the node, and
several replicas on one node slow each other down."""


def pod_template(
    pipeline: OmniPipeline, topology: Topology, process: Process, worker_image: str, secret: str
) -> dict[str, Any]:
    """The template of a process's pods, with the user's patch applied.

    It contains a hash of the secret: pods restart when the secret changes, because they could no longer connect.
    """
    role = labels.HEAD if process.is_head else labels.REPLICA
    own_labels = labels.of_role(pipeline.name, role, process.stage.name)
    patch = pipeline.spec.head.template if process.is_head else process.stage.template
    annotations = {KEYS_HASH: content_hash(secret)}
    if process.is_head:
        annotations[CONFIG_HASH] = content_hash(topology.stage_config)
        if pipeline.speaks_tls:
            annotations[METRICS_SCHEME] = "https"
    metadata = {"labels": own_labels, "annotations": annotations}
    base = {"metadata": metadata, "spec": pod_spec(pipeline, process, worker_image)}
    pod = template.merged(base, patch)
    # The patch must not change these: selectors and the watch depend on them.
    pod["metadata"] = {**(pod.get("metadata") or {})}
    pod["metadata"]["labels"] = {**(pod["metadata"].get("labels") or {}), **own_labels}
    return pod


def pod_spec(pipeline: OmniPipeline, process: Process, worker_image: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        **confined_pod(pipeline),
        "terminationGracePeriodSeconds": process.drain_seconds + DRAIN_MARGIN_SECONDS,
        "containers": [container(pipeline, process, worker_image)],
        "volumes": volumes(pipeline, process),
    }
    if pipeline.spec.priority_class_name:
        spec["priorityClassName"] = pipeline.spec.priority_class_name
    accelerator = process.stage.accelerator
    if accelerator and process.devices:
        if accelerator.node_selector:
            spec["nodeSelector"] = dict(accelerator.node_selector)
        if accelerator.runtime_class_name:
            spec["runtimeClassName"] = accelerator.runtime_class_name
    return spec


def confined_pod(pipeline: OmniPipeline) -> dict[str, Any]:
    """The settings of all pods of a pipeline: an unprivileged user, and no access to the Kubernetes API."""
    pull_secrets = [{"name": name} for name in pipeline.spec.image.pull_secrets]
    return {
        "serviceAccountName": pipeline.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"imagePullSecrets": pull_secrets} if pull_secrets else {}),
    }


def confined_container(pipeline: OmniPipeline, worker_image: str) -> dict[str, Any]:
    """The settings of all containers of a pipeline: the image, no privileges, and a read-only file system."""
    return {
        "image": pipeline.spec.image.name or worker_image,
        "imagePullPolicy": pipeline.spec.image.pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # Puts the end of the log into the status of a container that failed. The pipeline's status quotes it.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def container(pipeline: OmniPipeline, process: Process, worker_image: str) -> dict[str, Any]:
    scheme = "HTTPS" if process.is_head and pipeline.speaks_tls else "HTTP"
    result: dict[str, Any] = {
        **confined_container(pipeline, worker_image),
        "name": template.CONTAINER,
        "args": list(process.arguments),
        "env": environment(pipeline, process),
        "ports": ports(process),
        "startupProbe": probe("/startupz", STARTUP_PERIOD_SECONDS, startup_failures(process), scheme),
        "livenessProbe": probe("/livez", 10, 6, scheme),
        "readinessProbe": probe("/readyz", 2, 3, scheme),
        "volumeMounts": mounts(pipeline, process),
    }
    if process.devices and process.resource:
        count = {process.resource: str(process.devices)}
        result["resources"] = {"requests": count, "limits": dict(count)}
    return result


def environment(pipeline: OmniPipeline, process: Process) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        {"name": "HOME", "value": "/tmp"},
    ]
    if process.devices:
        variables.append({"name": "OMP_NUM_THREADS", "value": ACCELERATED_THREADS})
    if process.is_head and (database := pipeline.spec.videos.database_url_secret_ref):
        variables.append(variable_from_secret(DATABASE_URL, database))
    return variables + hub_environment(CACHE_DIR if cache_of(pipeline, process) else None, process.token)


def hub_environment(cache: str | None, token: SecretKey | None) -> list[dict[str, Any]]:
    """The variables with which the libraries download from the model hub."""
    variables: list[dict[str, Any]] = [{"name": "HF_HOME", "value": cache}] if cache else []
    if token:
        variables.append(variable_from_secret("HF_TOKEN", token))
    return variables


def variable_from_secret(variable: str, secret: SecretKey) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def ports(process: Process) -> list[dict[str, Any]]:
    numbers = {"http": process.http_port}
    if process.is_head:
        numbers |= control_ports()
    numbers |= {f"data-{index}": port for index, port in enumerate(process.data_ports) if not process.is_head}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in numbers.items()]


def control_ports() -> dict[str, int]:
    """The ports of a head to which replicas connect, by name."""
    return {
        "master": CLUSTER_HEAD.master,
        "coordinator": CLUSTER_HEAD.coordinator,
        "coordinator-pub": CLUSTER_HEAD.coordinator_pub,
    }


def probe(path: str, period: int, failures: int, scheme: str) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": scheme},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def startup_failures(process: Process) -> int:
    """How many startup probes may fail until the process has used up its startup time."""
    return max(1, math.ceil(process.startup_seconds / STARTUP_PERIOD_SECONDS))


def volumes(pipeline: OmniPipeline, process: Process) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": shared_memory_volume(process)},
        # Readable only for the group of the pod (fsGroup).
        {"name": "keys", "secret": {"secretName": keys_name(pipeline), "defaultMode": 0o440}},
    ]
    if process.is_head:
        result.append({"name": "stages", "configMap": {"name": pipeline.name}})
        result += api_key_volumes(pipeline)
        result += certificate_volumes(pipeline)
    if claim := cache_of(pipeline, process):
        result.append({"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    if claim := videos_of(pipeline, process):
        result.append({"name": VIDEOS_VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    for index, claim in enumerate(process.claims):
        result.append({"name": f"model-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return result


def shared_memory_volume(process: Process) -> dict[str, Any]:
    """The volume of /dev/shm, with the stage's size if the pod has replicas of it."""
    size = process.stage.shm_size if process.data_ports else None
    return {"medium": "Memory", **({"sizeLimit": size} if size else {})}


def api_key_volumes(pipeline: OmniPipeline) -> list[dict[str, Any]]:
    """The volume with the keys that the API accepts. It is a file, so that the head can reload it."""
    secret = pipeline.spec.api_key_secret_ref
    if secret is None:
        return []
    items = [{"key": secret.key, "path": API_KEYS_FILE}]
    return [{"name": API_KEYS_VOLUME, "secret": {"secretName": secret.name, "defaultMode": 0o440, "items": items}}]


def certificate_volumes(pipeline: OmniPipeline) -> list[dict[str, Any]]:
    """The volume with the API's certificate. The head reloads its files when they change."""
    tls = pipeline.spec.api.tls
    return [{"name": TLS_VOLUME, "secret": {"secretName": tls.secret_name, "defaultMode": 0o440}}] if tls else []


def mounts(pipeline: OmniPipeline, process: Process) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "keys", "mountPath": KEYS_DIR, "readOnly": True},
    ]
    if process.is_head:
        result.append({"name": "stages", "mountPath": STAGE_CONFIG_DIR, "readOnly": True})
        if pipeline.spec.api_key_secret_ref:
            result.append({"name": API_KEYS_VOLUME, "mountPath": API_KEYS_DIR, "readOnly": True})
        if pipeline.speaks_tls:
            result.append({"name": TLS_VOLUME, "mountPath": TLS_DIR, "readOnly": True})
    if cache_of(pipeline, process):
        result.append({"name": CACHE_VOLUME, "mountPath": CACHE_DIR})
    if videos_of(pipeline, process):
        result.append({"name": VIDEOS_VOLUME, "mountPath": VIDEOS_DIR})
    for index, claim in enumerate(process.claims):
        result.append({"name": f"model-{index}", "mountPath": f"{MODELS_DIR}/{claim}", "readOnly": True})
    return result
