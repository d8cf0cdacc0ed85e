"""The last valid spec that a status keeps: the whole spec, and nothing that changes by itself."""

import json
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.last_valid_spec import MAX_CHARACTERS, kept_spec, with_last_valid_spec
from tests.operator.conftest import from_cluster
from tests.operator.edits import edited
from tests.operator.planning.manifests.test_golden import NAMES
from tests.operator.planning.observations import UP, conditions, deployment, observed, status_of

BROKEN = {"spec.head": {"stage": "nope"}, "spec.replicas": 7, "spec.suspend": True}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_kept_as_it_is(name: str) -> None:
    manifest = from_cluster(name)
    kept = with_last_valid_spec(
        edited(manifest, {**BROKEN, "status": {"lastValidSpec": kept_spec(parse(manifest), {})}})
    )
    assert kept is not None
    assert parse(kept).spec == parse(manifest).spec


def test_a_stage_that_another_autoscaler_scales_is_kept_as_such(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.stages.0.autoscaling": {"mode": "external"}})
    kept = with_last_valid_spec({**manifest, "status": {"lastValidSpec": kept_spec(parse(manifest), {})}})
    assert kept is not None
    assert parse(kept).spec.stages[0].is_scaled_elsewhere


def test_a_status_keeps_the_spec_that_it_is_about(digits: dict[str, Any]) -> None:
    status = status_of(digits, observed(UP, deployment(2, 2), []))
    assert json.loads(status["lastValidSpec"]) == json.loads(json.dumps(digits["spec"]))


def test_without_a_status_none_is_known(digits: dict[str, Any]) -> None:
    assert with_last_valid_spec(digits) is None
    assert with_last_valid_spec({**digits, "status": {"observedGeneration": -1}}) is None


def test_a_spec_that_is_too_long_is_not_kept(digits: dict[str, Any]) -> None:
    large = edited(digits, {"spec.stages.0.template": {"metadata": {"annotations": {"a": "b" * MAX_CHARACTERS}}}})
    assert kept_spec(parse(large), {}) is None
    assert "lastValidSpec" not in status_of(large, observed(UP, deployment(2, 2), []))


PAUSED, CHANGED = {"spec.paused": True}, {"spec.loadBalancing.policy": "random"}
SERVING = observed(UP, deployment(2, 2), [])


def test_a_paused_pipeline_is_ready_until_its_spec_is_changed(digits: dict[str, Any]) -> None:
    status = status_of(digits, SERVING)
    for edits, is_ready in (({}, True), (CHANGED, False), ({}, True)):
        status = status_of(edited(digits, PAUSED | edits), SERVING, previous=status)
        ready = conditions(status)["Ready"]
        assert (ready["status"], ready["reason"]) == (("True", "Serving") if is_ready else ("False", "Paused"))
    status = status_of(edited(digits, CHANGED), SERVING, previous=status)
    assert conditions(status)["Ready"]["status"] == "True"


def test_a_paused_pipeline_stays_paused_when_its_spec_becomes_invalid(digits: dict[str, Any]) -> None:
    status = status_of(edited(digits, PAUSED), SERVING, previous=status_of(digits, SERVING))
    kept = with_last_valid_spec({**edited(digits, BROKEN), "status": status})
    assert kept is not None
    assert parse(kept).spec == parse(edited(digits, PAUSED)).spec


def test_a_spec_of_an_older_version_is_not_the_current_one(digits: dict[str, Any]) -> None:
    older = json.dumps({**digits["spec"], "gone": 1})
    status = status_of(edited(digits, PAUSED), SERVING, previous={"lastValidSpec": older})
    assert conditions(status)["Ready"]["reason"] == "Paused"
