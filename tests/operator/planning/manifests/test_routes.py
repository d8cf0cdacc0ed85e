"""The HTTPRoute of a pipeline."""

from typing import Any

from tests.operator.edits import edited
from tests.operator.rendered import rendered

ROUTE = {"parentRefs": [{"name": "edge", "namespace": "gateways", "sectionName": "https"}], "hostnames": ["*.a.org"]}


def test_a_route_leads_to_the_api_where_it_is_asked_for_and_changes_nothing_else(digits: dict[str, Any]) -> None:
    objects = rendered(edited(digits, {"spec.service.route": ROUTE}))
    route = objects.pop(("HTTPRoute", "digits"))
    assert objects == rendered(digits)
    (gateway,) = route["spec"]["parentRefs"]
    assert gateway.items() >= {"name": "edge", "namespace": "gateways", "sectionName": "https"}.items()
    assert route["spec"]["hostnames"] == ["*.a.org"]
    ((backend,),) = [rule["backendRefs"] for rule in route["spec"]["rules"]]
    service = objects["Service", backend["name"]]
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert service["spec"]["ports"][0]["appProtocol"] == "http"


def test_without_host_names_a_route_has_those_of_the_gateway(digits: dict[str, Any]) -> None:
    route = rendered(edited(digits, {"spec.service.route": {"parentRefs": [{"name": "edge"}]}}))["HTTPRoute", "digits"]
    assert "hostnames" not in route["spec"]
