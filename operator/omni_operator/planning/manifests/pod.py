"""The pods of a pipeline: `pod_template` builds those of its processes, and `merged_template` every pod there is.

So a setting that all pods need, and the user's own template, reach all of them: heads, replicas and downloads.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omni_operator.crd import pod_template as template
from omni_operator.crd.spec.parts import SecretKey
from omni_operator.crd.spec.pipeline import GROUP as API_GROUP
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.pods import PodSettings
from omni_operator.crd.spec.stage import Accelerator
from omni_operator.planning.manifests import budgets, labels, pod_settings
from omni_operator.planning.manifests.claims import CACHE_DIR, CACHE_VOLUME, VIDEOS_VOLUME, cache_of, videos_of
from omni_operator.planning.manifests.devices import container_devices, pod_claims
from omni_operator.planning.manifests.endpoint_keys import endpoint_key_mounts, endpoint_key_volumes
from omni_operator.planning.manifests.ownership import content_hash
from omni_operator.planning.topology.files import (
    API_KEYS_DIR,
    API_KEYS_FILE,
    KEYS_DIR,
    STAGE_CONFIG_DIR,
    TLS_DIR,
    VIDEOS_DIR,
    files_in_pods,
)
from omni_operator.planning.topology.model_sources import IMAGE_DIR, MODELS_DIR, ModelImage
from omni_operator.planning.topology.records import CLUSTER_HEAD, Process
from omni_operator.planning.topology.stage_config import stage_config

CONFIG_HASH = "omnipipeline.dev/config-hash"
METRICS_SCHEME = "prometheus.io/scheme"
DATABASE_URL = "OMNI_DATABASE_URL"
KEYS_VOLUME = "keys"
API_KEYS_VOLUME = "api-keys"
TLS_VOLUME = "tls"
MODEL_IMAGE_VOLUME = "model-image"
LORA_IMAGE_VOLUME = "lora-image"
GROUP = 65532
"""Group of a pod's volumes: the group of the user in our images."""
DRAIN_MARGIN_SECONDS = 30
"""Time that a pod may take to end beyond the drain of its process."""
STARTUP_PERIOD_SECONDS = 2
ACCELERATED_THREADS = "1"
"""CPU threads of an operation in a process with devices. Without it every replica takes all cores of the node, and
several replicas on one node slow each other down."""


@dataclass(frozen=True)
class Surroundings:
    """What the objects of a pipeline depend on besides its spec.

    worker_image: of the pods of a pipeline that names none
    operator_namespace: where the operator's pod runs; None if it runs outside the cluster
    assigns_ids: whether the cluster gives each namespace user and group ids of its own, and rejects others (OpenShift)
    """

    worker_image: str
    operator_namespace: str | None = None
    assigns_ids: bool = False


def pod_template(pipeline: OmniPipeline, process: Process, surroundings: Surroundings, keys: str) -> dict[str, Any]:
    """The template of a process's pods, with the user's patch applied.

    `keys`: the name of the Secret of all pods. Another one has another name, so all pods restart with it.
    """
    role = labels.HEAD if process.is_head else labels.REPLICA
    own_labels = labels.of_role(pipeline.name, role, process.stage.name)
    patches = pod_settings.patches(settings_of(pipeline, process), selector_of(pipeline, process))
    annotations = budgets.eviction(pipeline, process)
    if process.is_head:
        annotations[CONFIG_HASH] = content_hash(stage_config(pipeline, files_in_pods(pipeline), with_loras=False))
        if pipeline.speaks_tls:
            annotations[METRICS_SCHEME] = "https"
    metadata = {"labels": own_labels, "annotations": annotations}
    spec, resources = pod_spec(pipeline, process, surroundings, keys), budgets.default_resources(pipeline, process)
    return merged_template(pipeline, surroundings, metadata, spec, patches, resources)


def merged_template(
    pipeline: OmniPipeline,
    surroundings: Surroundings,
    metadata: Mapping[str, Any],
    spec: Mapping[str, Any],
    patches: Iterable[Mapping[str, Any]],
    resources: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """The template of any pod of a pipeline: what all of them have, the pod's own part, then the user's patches, and
    `resources` of the worker's container that nobody has set.

    Patches can add labels, arguments and ports, but change none of the operator's: selectors, watches, probes and
    Services depend on them.
    """
    pod: dict[str, Any] = {"metadata": dict(metadata), "spec": {**confined_pod(pipeline, surroundings), **spec}}
    for patch in patches:
        pod = template.merged(pod, {key: below for key, below in patch.items() if below is not None})
    pod["metadata"] = {**(pod.get("metadata") or {})}
    pod["metadata"]["labels"] = {**(pod["metadata"].get("labels") or {}), **metadata["labels"]}
    own = {one["name"]: one for one in spec["containers"]}
    pod["spec"]["containers"] = [
        budgets.with_defaults(with_own(one, own[one["name"]]), resources) if one["name"] in own else one
        for one in pod["spec"].get("containers") or ()
    ]
    return pod


def with_own(container: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A container with its own arguments and ports first, and then those that patches added to it."""
    arguments, numbers = own.get("args", []), {port["containerPort"] for port in own.get("ports", ())}
    added = container.get("args") or []
    ports = [port for port in container.get("ports") or () if port["containerPort"] not in numbers]
    return {
        **container,
        **({"args": arguments if added == arguments else [*arguments, *added]} if arguments else {}),
        **({"ports": [*own.get("ports", ()), *ports]} if ports or numbers else {}),
    }


def settings_of(pipeline: OmniPipeline, process: Process) -> PodSettings:
    """Where the user's settings of a process's pods are."""
    return pipeline.spec.head if process.is_head else process.stage


def selector_of(pipeline: OmniPipeline, process: Process) -> dict[str, str]:
    """The labels that only the pods of a process have."""
    if process.is_head:
        return labels.head_selector(pipeline.name)
    return labels.stage_selector(pipeline.name, process.stage.name)


def pod_spec(pipeline: OmniPipeline, process: Process, surroundings: Surroundings, keys: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": process.drain_seconds + DRAIN_MARGIN_SECONDS,
        "containers": [container(pipeline, process, surroundings)],
        "volumes": volumes(pipeline, process, keys),
        **pod_claims(pipeline, process),
    }
    if process.image:
        spec |= image_pull_secrets((*pipeline.spec.image.pull_secrets, *process.image.pull_secrets))
    accelerator = process.stage.accelerator if process.devices else None
    spec |= node_placement(settings_of(pipeline, process), accelerator, budgets.lost_nodes(process))
    if accelerator and accelerator.runtime_class_name:
        spec["runtimeClassName"] = accelerator.runtime_class_name
    return spec


def node_placement(
    settings: PodSettings, accelerator: Accelerator | None, tolerated: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """On which nodes pods may run: those with an accelerator, if one is given, and whose taints are tolerated."""
    selected = dict(accelerator.node_selector) if accelerator else {}
    return {
        **({"nodeSelector": selected} if selected else {}),
        **pod_settings.tolerations(settings, accelerator, tolerated),
    }


def confined_pod(pipeline: OmniPipeline, surroundings: Surroundings) -> dict[str, Any]:
    """The settings of all pods of a pipeline: an unprivileged user, no access to the Kubernetes API, the priority.

    The user is the image's, or the one that the cluster assigns. The group is needed because a new volume belongs to
    root; a cluster that assigns ids also assigns it.
    """
    pull_secrets = image_pull_secrets(pipeline.spec.image.pull_secrets)
    priority = pipeline.spec.priority_class_name
    return {
        "serviceAccountName": pipeline.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            **({} if surroundings.assigns_ids else {"fsGroup": GROUP}),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **pull_secrets,
        **({"priorityClassName": priority} if priority else {}),
    }


def image_pull_secrets(names: Iterable[str]) -> dict[str, Any]:
    """The Secrets with which a pod's images are pulled, each once."""
    secrets = [{"name": name} for name in dict.fromkeys(names)]
    return {"imagePullSecrets": secrets} if secrets else {}


def confined_container(pipeline: OmniPipeline, surroundings: Surroundings) -> dict[str, Any]:
    """The settings of all containers of a pipeline: the image, no privileges, and a read-only file system."""
    return {
        "name": template.CONTAINER,
        "image": pipeline.spec.image.name or surroundings.worker_image,
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


def container(pipeline: OmniPipeline, process: Process, surroundings: Surroundings) -> dict[str, Any]:
    scheme = "HTTPS" if process.is_head and pipeline.speaks_tls else "HTTP"
    return {
        **confined_container(pipeline, surroundings),
        "args": list(process.arguments),
        "env": environment(pipeline, process),
        "ports": ports(process),
        "startupProbe": probe("/startupz", STARTUP_PERIOD_SECONDS, startup_failures(process), scheme),
        "livenessProbe": probe("/livez", 10, 6, scheme),
        "readinessProbe": probe("/readyz", 2, 3, scheme),
        "volumeMounts": mounts(pipeline, process),
        **container_devices(process),
    }


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


def volumes(pipeline: OmniPipeline, process: Process, keys: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": budgets.scratch(pipeline, process)}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": budgets.shared_memory(process)}},
        # Readable only for the group of the pod (fsGroup).
        {"name": KEYS_VOLUME, "secret": {"secretName": keys, "defaultMode": 0o440}},
    ]
    if process.is_head:
        result.append({"name": "stages", "configMap": {"name": pipeline.name}})
        result += api_key_volumes(pipeline)
        result += certificate_volumes(pipeline)
        result += endpoint_key_volumes(pipeline)
    if claim := cache_of(pipeline, process):
        result.append({"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    if claim := videos_of(pipeline, process):
        result.append({"name": VIDEOS_VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    for index, claim in enumerate(process.claims):
        result.append({"name": f"model-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    if process.image:
        result.append(model_image_volume(process.image))
    for index, (_, image) in enumerate(process.lora_images):
        result.append(model_image_volume(image, f"{LORA_IMAGE_VOLUME}-{index}"))
    return result


def keys_name_of(template: Mapping[str, Any]) -> str | None:
    """The name of the Secret of all pods in a pod template; None if it has none."""
    volumes = (template.get("spec") or {}).get("volumes") or []
    return next(((one.get("secret") or {}).get("secretName") for one in volumes if one["name"] == KEYS_VOLUME), None)


def omni_container(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Our container in the spec of a pod; empty if it has none."""
    return next((dict(one) for one in spec.get("containers") or [] if one["name"] == template.CONTAINER), {})


def users_annotations(pods: Mapping[str, Any]) -> dict[str, str]:
    """The annotations of a pod template that the user's own template adds."""
    ours = (API_GROUP, budgets.SAFE_TO_EVICT)
    annotations = pods["metadata"].get("annotations") or {}
    return {key: value for key, value in annotations.items() if not key.startswith(ours)}


def model_image_volume(image: ModelImage, name: str = MODEL_IMAGE_VOLUME) -> dict[str, Any]:
    policy = {"pullPolicy": image.pull_policy} if image.pull_policy else {}
    return {"name": name, "image": {"reference": image.reference, **policy}}


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
        {"name": KEYS_VOLUME, "mountPath": KEYS_DIR, "readOnly": True},
    ]
    if process.is_head:
        result.append({"name": "stages", "mountPath": STAGE_CONFIG_DIR, "readOnly": True})
        if pipeline.spec.api_key_secret_ref:
            result.append({"name": API_KEYS_VOLUME, "mountPath": API_KEYS_DIR, "readOnly": True})
        if pipeline.speaks_tls:
            result.append({"name": TLS_VOLUME, "mountPath": TLS_DIR, "readOnly": True})
        result += endpoint_key_mounts(pipeline)
    if cache_of(pipeline, process):
        result.append({"name": CACHE_VOLUME, "mountPath": CACHE_DIR})
    if videos_of(pipeline, process):
        result.append({"name": VIDEOS_VOLUME, "mountPath": VIDEOS_DIR})
    for index, claim in enumerate(process.claims):
        result.append({"name": f"model-{index}", "mountPath": f"{MODELS_DIR}/{claim}", "readOnly": True})
    if process.image:
        result.append({"name": MODEL_IMAGE_VOLUME, "mountPath": IMAGE_DIR, "readOnly": True})
    for index, (folder, _) in enumerate(process.lora_images):
        result.append({"name": f"{LORA_IMAGE_VOLUME}-{index}", "mountPath": folder, "readOnly": True})
    return result
