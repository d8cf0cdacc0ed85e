"""The Services of a pipeline."""

import re
from pathlib import Path
from typing import Any

import pytest

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
    assert {port["appProtocol"] for port in service["ports"]} == {"tcp"}


@pytest.mark.parametrize("local", [1, 4])
def test_the_docs_name_every_port_between_processes_that_a_mesh_must_leave_alone(
    digits: dict[str, Any], local: int
) -> None:
    pods = rendered(edited(digits, {"spec.stages.0.localReplicas": local}))
    dialled = {
        port["containerPort"]
        for kind, name in pods
        if kind == "Deployment"
        for port in pods[kind, name]["spec"]["template"]["spec"]["containers"][0]["ports"]
        if port["name"] != "http"
    }
    page = (Path(__file__).parents[4] / "docs/security.md").read_text()
    (excluded,) = set(re.findall(r'(?:excludeInboundPorts|excludeOutboundPorts|skip-\w+-ports): "([\d,-]+)"', page))
    ranges = [part.split("-") for part in excluded.split(",")]
    named = {port for first, *last in ranges for port in range(int(first), int((last or [first])[0]) + 1)}
    assert dialled <= named


def test_the_api_service_is_of_the_type_that_is_asked_for(digits: dict[str, Any]) -> None:
    settings = {"type": "LoadBalancer", "annotations": {"lb.example/internal": "true"}}
    service = rendered(edited(digits, {"spec.service": settings}))["Service", "digits"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["metadata"]["annotations"]["lb.example/internal"] == "true"
    assert service["metadata"]["annotations"][SPEC_HASH] != rendered(digits)["Service", "digits"]["metadata"][
        "annotations"
    ].get(SPEC_HASH)


def test_the_api_service_has_the_families_and_the_load_balancer_that_are_asked_for(digits: dict[str, Any]) -> None:
    given = {
        "type": "LoadBalancer",
        "ipFamilyPolicy": "PreferDualStack",
        "loadBalancerClass": "example.com/internal",
        "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
    }
    spec = rendered(edited(digits, {"spec.service": given}))["Service", "digits"]["spec"]
    assert {key: spec[key] for key in given} == given
    assert not ({*given} - {"type"}) & rendered(digits)["Service", "digits"]["spec"].keys()
