"""A pipeline that asks for an HTTPRoute, on a cluster that has that kind."""

import json
from typing import Any

import pytest

from tests.kubernetes.apiserver.add_ons import served
from tests.kubernetes.apiserver.operators import Kubectl, StartOperator, eventually, serve

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("alone")]
GROUP = "gateway.networking.k8s.io"


def test_a_route_is_made_follows_the_spec_and_is_removed(
    kubectl: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    digits["spec"]["service"] = {"route": {"parentRefs": [{"name": "edge"}], "hostnames": ["a.example.org"]}}

    def patch(**route: Any) -> None:
        kubectl(
            "patch", "op", "digits", "--type=merge", "-p", json.dumps({"spec": {"service": {"route": route or None}}})
        )

    def hostnames() -> list[str]:
        return [name for each in kubectl.items(f"httproutes.{GROUP}") for name in each["spec"].get("hostnames", ())]

    with served(kubectl, GROUP, "HTTPRoute"):
        start_operator(kubectl.namespace)
        serve(kubectl, digits)
        assert hostnames() == ["a.example.org"]
        kubectl("delete", f"httproutes.{GROUP}", "digits")
        eventually(lambda: hostnames() == ["a.example.org"], "the route again")
        patch(hostnames=["b.example.org"])
        eventually(lambda: hostnames() == ["b.example.org"], "the new host name")
        patch()
        eventually(lambda: not kubectl.items(f"httproutes.{GROUP}"), "the end of the route")
