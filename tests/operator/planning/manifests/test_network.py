"""Who may connect to the pods of a pipeline."""

from typing import Any

from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests.network import network_policies
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
    assert peers(manifest, "omni-system") == [
        team,
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "omni-system"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "omnipipeline-operator"}},
        },
    ]


def test_no_pod_of_another_namespace_passes_for_the_operators(digits: dict[str, Any]) -> None:
    """A pod may carry any label; only the API server says what the name of its namespace is."""
    team = {"podSelector": {"matchLabels": {"app": "web"}}}
    manifest = edited(digits, {"spec.networkPolicy": {"clients": [team]}})
    for namespace in ("omni-system", "gallery"):
        for peer in peers(manifest, namespace)[1:]:
            assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    assert peers(manifest, None) == [team], "an operator outside the cluster comes through the API server"


def peers(manifest: dict[str, Any], operator_namespace: str | None) -> list[dict[str, Any]]:
    """Who may connect to the HTTP port."""
    (policy,) = network_policies(parse(manifest), operator_namespace)
    found: list[dict[str, Any]] = policy["spec"]["ingress"][1]["from"]
    return found


def test_no_network_policy_is_made_where_none_is_wanted(digits: dict[str, Any]) -> None:
    assert ("NetworkPolicy", "digits") not in rendered(edited(digits, {"spec.networkPolicy": {"mode": "none"}}))
