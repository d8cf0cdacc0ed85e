"""The ConfigMap that tells the head its stages, and the ServiceAccount of the pods, which may do nothing."""

from typing import Any

from omni_operator.manifests import labels
from omni_operator.manifests.ownership import child
from omni_operator.spec import OmniPipeline
from omni_operator.topology import STAGE_CONFIG_FILE, Topology


def config_map(pipeline: OmniPipeline, topology: Topology) -> dict[str, Any]:
    content = {"data": {STAGE_CONFIG_FILE: topology.stage_config}}
    return child(pipeline, "v1", "ConfigMap", pipeline.name, labels.common(pipeline.name), content)


def service_account(pipeline: OmniPipeline) -> dict[str, Any]:
    content = {"automountServiceAccountToken": False}
    return child(pipeline, "v1", "ServiceAccount", pipeline.name, labels.common(pipeline.name), content)
