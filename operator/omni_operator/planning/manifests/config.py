"""The ConfigMap with the stages for the head, the Secret of all pods, and their ServiceAccount, which has no rights."""

import base64

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.topology.files import KEYS_FILE, STAGE_CONFIG_FILE
from omni_operator.planning.topology.records import Topology


def config_map(pipeline: OmniPipeline, topology: Topology) -> Object:
    content = {"data": {STAGE_CONFIG_FILE: topology.stage_config}}
    return child(pipeline, "v1", "ConfigMap", pipeline.name, labels.common(pipeline.name), content)


def keys_secret(pipeline: OmniPipeline, name: str, secret: str) -> Object:
    """The Secret from which the pods derive the keys of their connections. Nobody can change its content."""
    data = {KEYS_FILE: base64.b64encode(secret.encode()).decode()}
    content = {"type": "Opaque", "immutable": True, "data": data}
    return child(pipeline, "v1", "Secret", name, labels.common(pipeline.name), content)


def keys_name(pipeline: OmniPipeline, suffix: str) -> str:
    return f"{pipeline.name}-keys-{suffix}"


def service_account(pipeline: OmniPipeline) -> Object:
    content = {"automountServiceAccountToken": False}
    return child(pipeline, "v1", "ServiceAccount", pipeline.name, labels.common(pipeline.name), content)
