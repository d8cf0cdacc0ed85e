"""The NetworkPolicy of a pipeline: who may connect to its pods. Connections from its pods are not restricted.

The ports between a pipeline's processes are open only to its own pods. The HTTP port, with the API, the probes and the
metrics, is open to everyone; or, if the pipeline names clients, to those and the operator.
"""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.topology.records import CLUSTER_HEAD, CLUSTER_REPLICA

OPERATOR_LABELS = {"app.kubernetes.io/name": "omnipipeline-operator"}
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label with which the API server marks every namespace, so that nobody else's pods can pass for the operator's."""


def network_policies(pipeline: OmniPipeline, operator_namespace: str | None) -> list[Object]:
    """One, or none if the pipeline asks for none. `operator_namespace` is None for an operator outside the cluster."""
    if pipeline.spec.network_policy.mode == "none":
        return []
    spec = {
        "podSelector": {"matchLabels": dict(labels.pipeline_selector(pipeline.name))},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": dict(labels.pipeline_selector(pipeline.name))}}]},
            http_rule(pipeline, operator_namespace),
        ],
    }
    common = labels.common(pipeline.name)
    return [child(pipeline, "networking.k8s.io/v1", "NetworkPolicy", pipeline.name, common, {"spec": spec})]


def http_rule(pipeline: OmniPipeline, operator_namespace: str | None) -> dict[str, Any]:
    ports = sorted({CLUSTER_HEAD.api, CLUSTER_REPLICA.http})
    rule: dict[str, Any] = {"ports": [{"port": port, "protocol": "TCP"} for port in ports]}
    if clients := pipeline.spec.network_policy.clients:
        rule["from"] = [*(dict(client) for client in clients), *operator_peers(operator_namespace)]
    return rule


def operator_peers(operator_namespace: str | None) -> list[dict[str, Any]]:
    """The operator's pods. None from outside the cluster: its requests come from the API server."""
    if operator_namespace is None:
        return []
    namespace = {"matchLabels": {NAMESPACE_NAME: operator_namespace}}
    return [{"namespaceSelector": namespace, "podSelector": {"matchLabels": dict(OPERATOR_LABELS)}}]
