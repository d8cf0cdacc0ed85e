"""The PodMonitor of a pipeline, by which the Prometheus Operator has its pods scraped. The chart's reads them alike."""

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
    """One, or none where the pipeline asks for none."""
    wanted = pipeline.spec.monitoring.pod_monitor
    if wanted is None:
        return []
    own_labels = {**wanted.labels, **labels.common(pipeline.name)}
    spec = {
        "selector": {"matchLabels": dict(labels.pipeline_selector(pipeline.name))},
        "podMetricsEndpoints": [{**endpoint(), **({"interval": wanted.interval} if wanted.interval else {})}],
    }
    return [child(pipeline, "monitoring.coreos.com/v1", "PodMonitor", pipeline.name, own_labels, {"spec": spec})]


def endpoint() -> dict[str, Any]:
    """How a pod's metrics are read, and which labels they get."""
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
        # A head tells of all stages; what names no stage itself is of the pod's own.
        "metricRelabelings": [
            {"sourceLabels": ["stage", OWN_STAGE], "regex": ";(.+)", "targetLabel": "stage"},
            {"regex": OWN_STAGE, "action": "labeldrop"},
        ],
    }
