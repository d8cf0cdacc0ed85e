"""The PodMonitor with which the Prometheus Operator scrapes a pipeline's pods. The chart's PodMonitor does the same."""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.manifests.pod import METRICS_SCHEME

LABEL_OF_POD = "__meta_kubernetes_pod_label_omnipipeline_dev_"
SCHEME = f"__meta_kubernetes_pod_annotation_{METRICS_SCHEME.translate(str.maketrans('./-', '___'))}"
OWN_STAGE = "stage_of_pod"


def pod_monitors(pipeline: OmniPipeline) -> list[Object]:
    """One, or none if the pipeline asks for none."""
    monitor = pipeline.spec.monitoring.pod_monitor
    if monitor is None:
        return []
    own_labels = {**monitor.labels, **labels.common(pipeline.name)}
    spec = {
        "selector": {"matchLabels": dict(labels.pipeline_selector(pipeline.name))},
        "podMetricsEndpoints": [{**scrape_endpoint(), **({"interval": monitor.interval} if monitor.interval else {})}],
    }
    return [child(pipeline, "monitoring.coreos.com/v1", "PodMonitor", pipeline.name, own_labels, {"spec": spec})]


def scrape_endpoint() -> dict[str, Any]:
    """How Prometheus reads a pod's metrics, and which labels it adds."""
    return {
        "port": "http",
        # The certificate of a head that speaks HTTPS is for the name by which clients know it.
        "tlsConfig": {"insecureSkipVerify": True},
        "relabelings": [
            {"sourceLabels": [SCHEME], "regex": "(https?)", "targetLabel": "__scheme__"},
            *(
                {"sourceLabels": [LABEL_OF_POD + label], "targetLabel": target}
                for label, target in (("pipeline", "pipeline"), ("role", "role"), ("stage", OWN_STAGE))
            ),
        ],
        # A head reports on all stages. A metric without a stage is about the stage of its pod.
        "metricRelabelings": [
            {"sourceLabels": ["stage", OWN_STAGE], "regex": ";(.+)", "targetLabel": "stage"},
            {"regex": OWN_STAGE, "action": "labeldrop"},
        ],
    }
