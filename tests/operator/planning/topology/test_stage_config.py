"""The file that lists the stages for the head, and the numbers of the stages."""

import json
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited
from tests.operator.planning.topology.layouts import REWRITER, flag, locally


def test_the_stage_config_names_the_stages_and_no_counts(digits: dict[str, Any]) -> None:
    one, three = cluster_topology(parse(digits)), cluster_topology(parse(edited(digits, {"spec.replicas": 3})))
    assert json.loads(one.stage_config) == {"stages": [{"id": 0, "name": "painter", "engine": "diffusion"}]}
    assert one.stage_config == three.stage_config
    assert one.head == three.head


def test_the_stage_config_tells_what_stages_take_and_do_in_their_order(two: dict[str, Any]) -> None:
    assert json.loads(cluster_topology(parse(two)).stage_config)["stages"] == [
        {"id": 1, "name": "thinker", "engine": "autoregressive"},
        {"id": 0, "name": "painter", "engine": "diffusion", "input": "hidden-states"},
    ]


def test_the_stage_config_names_the_models_that_are_not_the_pipelines(two: dict[str, Any]) -> None:
    own = {"spec.stages.0.model": {"source": "hf://Qwen/Qwen3-0.6B", "revision": "v1"}}
    thinker, painter = json.loads(cluster_topology(parse(edited(two, own))).stage_config)["stages"]
    assert (thinker["model"], thinker["revision"]) == ("hf://Qwen/Qwen3-0.6B", "v1")
    assert not {"model", "revision"} & painter.keys()


def test_a_stage_added_in_front_changes_no_command_line_behind_it(digits: dict[str, Any]) -> None:
    alone = cluster_topology(parse(digits)).replicas[0]
    behind = cluster_topology(parse(edited(digits, {"spec.stages": [REWRITER, *digits["spec"]["stages"]]}))).replicas[1]
    assert behind.arguments == alone.arguments


@pytest.mark.parametrize("backend", [cluster_topology, locally], ids=["cluster", "machine"])
def test_numbers_in_the_stage_config_are_those_of_the_command_lines(two: dict[str, Any], backend: Any) -> None:
    topology = backend(parse(two) if backend is cluster_topology else two)
    numbers = {stage["name"]: str(stage["id"]) for stage in json.loads(topology.stage_config)["stages"]}
    for process in topology.processes:
        assert flag(process, "--stage-id") == numbers[process.stage.name]
