"""The flags of heads and headless processes, in both backends."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited
from tests.operator.planning.topology.layouts import ENCODER, PAINTER, REWRITER, flag, locally

SETTINGS = {
    "loadBalancing.policy": ({"spec.loadBalancing.policy": "random"}, "head", "--omni-lb-policy", "random"),
    "heartbeat": ({"spec.loadBalancing.heartbeatTimeoutSeconds": 9}, "head", "--omni-heartbeat-timeout", "9"),
    "mode step": ({"spec.stages.0.scheduling.mode": "step"}, "replica", "--step-execution", ""),
    "mode request": ({"spec.stages.0.scheduling.mode": "request"}, "replica", "--no-step-execution", ""),
    "maxNumSeqs": ({"spec.stages.0.scheduling.maxNumSeqs": 3}, "replica", "--max-num-seqs", "3"),
    "maxWaiting": ({"spec.stages.0.scheduling.maxWaiting": 0}, "replica", "--max-waiting", "0"),
    "policy": ({"spec.stages.0.scheduling.policy": "edf"}, "replica", "--scheduling-policy", "edf"),
    "parallelism": (
        {"spec.stages.0.parallelism.cfg": 2, "spec.stages.0.accelerator.count": 2},
        "replica",
        "--cfg-parallel-size",
        "2",
    ),
    "drain of a replica": ({"spec.stages.0.drain.timeoutSeconds": 7}, "replica", "--drain-timeout", "7"),
    "drain of the head": ({"spec.stages.0.drain.timeoutSeconds": 7}, "head", "--drain-timeout", "7"),
    "startup": ({"spec.stages.0.startupTimeoutSeconds": 77}, "replica", "--stage-init-timeout", "77"),
    "localReplicas": ({"spec.stages.0.localReplicas": 3}, "replica", "--omni-dp-size-local", "3"),
    "revision": ({"spec.model": {"source": "hf://a/b", "revision": "v1"}}, "replica", "--revision", "v1"),
    "the served name": ({"metadata.name": "gallery"}, "head", "--served-model-name", "gallery"),
}


@pytest.mark.parametrize("row", SETTINGS)
def test_a_setting_reaches_the_command_line_in_both_backends(digits: dict[str, Any], row: str) -> None:
    edits, role, name, expected = SETTINGS[row]
    for topology in (cluster_topology(parse(edited(digits, edits))), locally(edited(digits, edits))):
        process = topology.head if role == "head" else topology.replicas[0]
        assert flag(process, name) == expected


def test_a_head_without_replicas_has_neither_devices_nor_engine_flags(digits: dict[str, Any]) -> None:
    head = cluster_topology(parse(digits)).head
    assert head.devices == 0
    assert flag(head, "--omni-dp-size-local") == "0"
    assert flag(head, "--max-num-seqs") is None


def test_a_claim_is_a_folder_to_the_worker(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model.source": "pvc://weights/qwen/image"})
    assert cluster_topology(parse(manifest)).replicas[0].arguments[1] == "/models/weights/qwen/image"
    manifest = edited(digits, {"spec.model.source": "pvc://weights"})
    assert cluster_topology(parse(manifest)).replicas[0].arguments[1] == "/models/weights"


TEXT_ENCODERS = {
    "after an encoder, the painter needs none": ([ENCODER, PAINTER], ""),
    "after a thinker that writes, it may need its own": ([REWRITER, PAINTER], None),
    "a reader of text needs its own": ([REWRITER, {**PAINTER, "input": "text"}], None),
    "a painter alone needs its own": ([{"name": "painter", "engine": "diffusion"}], None),
}


@pytest.mark.parametrize("row", TEXT_ENCODERS)
def test_who_loads_a_text_encoder(two: dict[str, Any], row: str) -> None:
    stages, expected = TEXT_ENCODERS[row]
    in_head = {"spec.stages": stages, "spec.head": {"stage": "painter", "localReplicas": 1}}
    topology = cluster_topology(parse(edited(two, in_head)))
    for process in (topology.head, topology.replicas[-1]):
        assert flag(process, "--no-text-encoder") == expected


def test_a_model_of_a_stages_own_is_served_by_its_pods_alone(two: dict[str, Any]) -> None:
    own = {"source": "hf://Qwen/Qwen3-0.6B", "revision": "v1", "tokenSecretRef": {"name": "qwen"}}
    topology = cluster_topology(parse(edited(two, {"spec.stages.0.model": own, "spec.head.stage": "painter"})))
    thinker, painter = topology.replicas
    assert (thinker.arguments[1], flag(thinker, "--revision")) == ("hf://Qwen/Qwen3-0.6B", "v1")
    assert thinker.token is not None
    assert thinker.token.name == "qwen"
    for process in (painter, topology.head):
        assert (process.arguments[1], flag(process, "--revision")) == ("builtin://digits", None)
        assert process.token is None


def test_the_engines_have_flags_of_their_own(two: dict[str, Any]) -> None:
    spread = {"accelerator": {"count": 2}, "parallelism": {"pipeline": 2}}
    stages = [{**REWRITER, **spread}, {**PAINTER, "accelerator": {"count": 4}, "parallelism": {"cfg": 4}}]
    rewriter, painter = cluster_topology(parse(edited(two, {"spec.stages": stages}))).replicas
    assert (flag(rewriter, "--pipeline-parallel-size"), flag(painter, "--pipeline-parallel-size")) == ("2", None)
    assert (flag(rewriter, "--cfg-parallel-size"), flag(painter, "--cfg-parallel-size")) == (None, "4")
    assert (flag(rewriter, "--step-execution"), flag(painter, "--step-execution")) == (None, "")
    assert (rewriter.devices, painter.devices) == (2, 4)


def test_the_head_runs_replicas_of_the_stage_it_is_told(two: dict[str, Any]) -> None:
    topology = cluster_topology(parse(edited(two, {"spec.head": {"stage": "painter", "localReplicas": 2}})))
    assert (flag(topology.head, "--stage-id"), flag(topology.head, "--omni-dp-size-local")) == ("0", "2")
    assert flag(topology.head, "--step-execution") == ""


def test_all_processes_have_the_secret(two: dict[str, Any]) -> None:
    for topology, file in (
        (cluster_topology(parse(two)), "/etc/omnipipeline-keys/secret"),
        (locally(two), "/run/digits/secret"),
    ):
        assert {flag(process, "--omni-secret-file") for process in topology.processes} == {file}


def test_adapters_change_no_command_line(digits: dict[str, Any]) -> None:
    with_loras = edited(digits, {"spec.stages.0.loras": [{"name": "ink", "source": "hf://org/ink"}]})
    before, after = (cluster_topology(parse(manifest)).processes for manifest in (digits, with_loras))
    assert [process.arguments for process in before] == [process.arguments for process in after]


def test_a_cache_becomes_a_flag(digits: dict[str, Any]) -> None:
    for cache, flags in (
        ({}, ["--cache=skip"]),
        ({"tolerance": 0.05, "maxConsecutive": 2}, ["--cache=skip,tolerance=0.05,maxConsecutive=2"]),
        ({"mode": "none", "tolerance": 0.05}, ["--cache=none"]),
        ({"mode": "first-block", "threshold": 0.1}, ["--cache=first-block,threshold=0.1"]),
        ({"mode": "mag", "ratios": [1.0, 0.5]}, ['--cache={"mode": "mag", "ratios": [1.0, 0.5]}']),
        (None, []),
    ):
        arguments = cluster_topology(parse(edited(digits, {"spec.stages.0.cache": cache}))).replicas[0].arguments
        assert [argument for argument in arguments if argument.startswith("--cache")] == flags
