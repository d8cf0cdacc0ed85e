"""Who may connect to the pods of a pipeline."""

from typing import Any

from tests.operator.edits import edited
from tests.operator.rendered import rendered


def test_only_its_own_pods_reach_more_than_the_http_port(digits: dict[str, Any]) -> None:
    spec = rendered(digits)["NetworkPolicy", "digits"]["spec"]
    own = {"matchLabels": {"omnipipeline.dev/pipeline": "digits"}}
    assert spec["podSelector"] == own
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"from": [{"podSelector": own}]}, {"ports": [{"port": 8000, "protocol": "TCP"}]}]


def test_the_http_port_is_for_the_clients_that_are_named_and_the_operator(digits: dict[str, Any]) -> None:
    team = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
    manifest = edited(digits, {"spec.networkPolicy": {"clients": [team]}})
    first, operator = rendered(manifest)["NetworkPolicy", "digits"]["spec"]["ingress"][1]["from"]
    assert first == team
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "omnipipeline-operator"}


def test_no_network_policy_is_made_where_none_is_wanted(digits: dict[str, Any]) -> None:
    assert ("NetworkPolicy", "digits") not in rendered(edited(digits, {"spec.networkPolicy": {"mode": "none"}}))
