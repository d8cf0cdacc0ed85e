"""The rules in CEL, which the API server checks, find the same problems as the operator's own, at the same fields."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.rules.every_rule import RULES
from tests.operator.conftest import from_cluster
from tests.operator.crd.manifest_parts import EXTERNAL
from tests.operator.crd.rules.cel import violations
from tests.operator.crd.rules.test_rules import REFUSED_BY_RULES, REFUSED_SIZES
from tests.operator.crd.test_parsing import ACCEPTED
from tests.operator.edits import edited

# What has no rule in CEL: templates have no schema, and that names are unique is said by the key of the list.
BY_THE_OPERATOR = (
    "two stages of one name",
    "a template with a container of no name",
    "a template with a stray key",
)
REFUSED = {
    row: edits for row, (edits, _) in {**REFUSED_BY_RULES, **REFUSED_SIZES}.items() if row not in BY_THE_OPERATOR
}


def problems(manifest: dict[str, Any]) -> list[str]:
    """The paths of the operator's own problems."""
    try:
        parse(manifest)
    except InvalidSpec as invalid:
        return [problem.path for problem in invalid.problems]
    return []


def uncovered(paths: Iterable[str], others: Iterable[str]) -> list[str]:
    """The paths that none of the others is, or lies below or above."""
    others = list(others)
    return [path for path in paths if not any(path.startswith(other) or other.startswith(path) for other in others)]


def assert_agreement(manifest: dict[str, Any]) -> None:
    by_operator, by_server = problems(manifest), violations(manifest)
    assert uncovered(by_operator, by_server) == []
    assert uncovered(by_server, by_operator) == []


@pytest.mark.parametrize("row", REFUSED)
def test_what_the_operator_refuses_the_server_refuses_at_the_same_field(row: str) -> None:
    manifest = edited(from_cluster("digits"), REFUSED[row])
    assert violations(manifest)
    assert_agreement(manifest)


@pytest.mark.parametrize("row", ACCEPTED)
def test_what_the_operator_accepts_the_server_accepts(row: str) -> None:
    assert violations(edited(from_cluster("digits"), ACCEPTED[row])) == {}


def test_every_validation_refuses_something() -> None:
    found = [violations(edited(from_cluster("digits"), edits)).values() for edits in REFUSED.values()]
    said = {message for messages in found for message in messages}
    validations = [validation for rule in RULES for validation in rule.validations]
    assert [each for each in validations if not each.is_transition and each.message not in said] == []


@pytest.mark.parametrize("row", REFUSED_BY_RULES)
def test_what_broke_a_rule_before_is_spared(row: str) -> None:
    manifest = edited(from_cluster("digits"), REFUSED_BY_RULES[row][0])
    assert violations(edited(manifest, {"spec.replicas": 7}), before=manifest) == {}


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


sizes = st.sampled_from(["1", "64Mi", "64m", "0.5Ki", "1G", "1.5Gi"])
counts = st.integers(1, 3)
storages = optional(claimName=st.just("mine"), size=sizes, storageClass=st.just("fast"), retain=st.booleans())
models = st.builds(
    lambda source, more: {"source": source, **more},
    st.sampled_from(["builtin://digits", "hf://a/b", "/models/a", "oci://a/b:1"]),
    optional(
        revision=st.just("main"), tokenSecretRef=st.just({"name": "hf"}), pullPolicy=st.just("Always"), cache=storages
    ),
)
autoscaling = optional(
    mode=st.sampled_from(["load", "external"]), minReplicas=counts, maxReplicas=counts, targetQueueLength=st.just(9)
)
stages = st.builds(
    lambda name, engine, more: {"name": name, "engine": engine, **more},
    st.sampled_from(["thinker", "painter", "head"]),
    st.sampled_from(["autoregressive", "diffusion", "openai"]),
    optional(
        task=st.sampled_from(["generate", "encode"]),
        input=st.sampled_from(["text", "hidden-states"]),
        endpoint=st.just(EXTERNAL["endpoint"]),
        model=models,
        system=st.just("Be brief."),
        maxTokens=counts,
        replicas=counts,
        autoscaling=autoscaling,
        accelerator=optional(count=counts),
        parallelism=optional(cfg=counts, pipeline=counts, ulysses=counts, tensor=counts, ring=counts),
        load=optional(
            offload=st.sampled_from(["none", "model"]), attention=st.sampled_from(["native", "flex", "flash"])
        ),
        scheduling=optional(mode=st.sampled_from(["step", "request"])),
        rollout=optional(maxUnavailable=st.sampled_from([0, 1, "0%"]), maxSurge=st.sampled_from([0, 1, "0%", "5%"])),
        shmSize=sizes,
    ),
)
specs = st.builds(
    lambda model, stages, more: {"model": model, "stages": stages, **more},
    models,
    st.lists(stages, min_size=1, max_size=3, unique_by=lambda stage: stage["name"]),
    optional(
        head=optional(stage=st.sampled_from(["thinker", "painter"]), localReplicas=st.integers(0, 1)),
        videos=optional(storage=storages, databaseUrlSecretRef=st.just({"name": "database"}), maxSize=sizes),
        api=optional(limits=optional(bodySize=sizes, totalBodySize=sizes)),
    ),
)


@given(spec=specs)
def test_the_operator_and_the_server_agree_about_any_spec(spec: dict[str, Any]) -> None:
    manifest = {**from_cluster("digits"), "spec": spec}
    by_operator, by_server = problems(manifest), violations(manifest)
    if any("ize" in path.rpartition(".")[2] for path in by_operator):
        # Types first, in both: the rules are about values that have their types.
        assert by_server
        return
    assert_agreement(manifest)


# name: (the cache before, the cache after, the field that is refused)
CLAIM = {"size": "10Gi"}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a smaller claim": (CLAIM, {"size": "9Gi"}, ".size"),
    "a larger claim": (CLAIM, {"size": "11Gi"}, ""),
    "the same size in other words": (CLAIM, {"size": "10240Mi"}, ""),
    "another class": ({**CLAIM, "storageClass": "a"}, {**CLAIM, "storageClass": "b"}, ".storageClass"),
    "a class where none was named": (CLAIM, {**CLAIM, "storageClass": "b"}, ".storageClass"),
    "no class any more": ({**CLAIM, "storageClass": "a"}, CLAIM, ".storageClass"),
    "the same class": ({**CLAIM, "storageClass": "a"}, {**CLAIM, "storageClass": "a", "retain": True}, ""),
    "another access mode": (CLAIM, {**CLAIM, "accessMode": "ReadWriteOnce"}, ".accessMode"),
    "a claim of the user's own instead": (CLAIM, {"claimName": "mine", "accessMode": "ReadWriteOnce"}, ""),
    "a claim that is created instead": ({"claimName": "mine"}, {**CLAIM, "accessMode": "ReadWriteOnce"}, ""),
}


@pytest.mark.parametrize("row", CHANGES)
def test_a_claim_changes_only_as_claims_can(row: str) -> None:
    before, after, field = CHANGES[row]

    def with_cache(cache: dict[str, Any]) -> dict[str, Any]:
        return edited(from_cluster("digits"), {"spec.model": {"source": "hf://a/b", "cache": cache}})

    found = violations(with_cache(after), with_cache(before))
    assert list(found) == ([f"spec.model.cache{field}"] if field else [])


def test_the_class_of_a_load_balancer_changes_only_with_the_type() -> None:
    def with_class(name: str | None, kind: str = "LoadBalancer") -> dict[str, Any]:
        given = {"loadBalancerClass": name} if name else {}
        return edited(from_cluster("digits"), {"spec.service": {"type": kind, **given}})

    refused = ["spec.service.loadBalancerClass"]
    assert list(violations(with_class("a/b"), before=with_class("a/c"))) == refused
    assert list(violations(with_class("a/b"), before=with_class(None))) == refused
    assert violations(with_class("a/b"), before=with_class("a/b")) == {}
    assert violations(with_class("a/b"), before=with_class(None, "ClusterIP")) == {}
    assert violations(with_class(None, "ClusterIP"), before=with_class("a/b")) == {}
