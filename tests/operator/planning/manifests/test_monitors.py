"""The PodMonitor of a pipeline."""

from typing import Any

from tests.operator.edits import edited
from tests.operator.rendered import container, pod, rendered


def test_a_monitor_is_made_where_it_is_asked_for_and_changes_no_pod(digits: dict[str, Any]) -> None:
    settings = {"labels": {"release": "ours", "app.kubernetes.io/managed-by": "me"}, "interval": "10s"}
    objects = rendered(edited(digits, {"spec.monitoring.podMonitor": settings}))
    monitor = objects.pop(("PodMonitor", "digits"))
    assert objects == rendered(digits)
    assert monitor["metadata"]["labels"]["release"] == "ours"
    assert monitor["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "omni-operator", (
        "or it were not found again"
    )
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod(digits)["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == "10s"
    assert endpoint["port"] in [port["name"] for port in container(digits)["ports"]]
