"""The Services of a pipeline."""

from typing import Any

from omni_operator.planning.manifests.ownership import SPEC_HASH
from tests.operator.edits import edited
from tests.operator.rendered import rendered


def test_replicas_find_the_head_before_it_is_ready(digits: dict[str, Any]) -> None:
    service = rendered(digits)["Service", "digits-head"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert {port["name"]: port["port"] for port in service["ports"]} == {
        "master": 9000,
        "coordinator": 9001,
        "coordinator-pub": 9002,
    }


def test_the_api_service_is_of_the_type_that_is_asked_for(digits: dict[str, Any]) -> None:
    settings = {"type": "LoadBalancer", "annotations": {"lb.example/internal": "true"}}
    service = rendered(edited(digits, {"spec.service": settings}))["Service", "digits"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["metadata"]["annotations"]["lb.example/internal"] == "true"
    assert service["metadata"]["annotations"][SPEC_HASH] != rendered(digits)["Service", "digits"]["metadata"][
        "annotations"
    ].get(SPEC_HASH)
