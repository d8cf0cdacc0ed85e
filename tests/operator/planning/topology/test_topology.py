"""From a pipeline to processes: how they are wired in a cluster and on one machine."""

import itertools
import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.local import local_topology
from omni_operator.planning.topology.records import Process, Topology
from tests.operator.edits import edited


def consecutive_ports(first: int = 20000) -> Callable[[int], int]:
    cursor = itertools.count(first)

    def take(count: int) -> int:
        ports = [next(cursor) for _ in range(max(count, 1))]
        return ports[0]

    return take


def flag(process: Process, name: str) -> str | None:
    """The value of a flag; "" for one without a value, None where it is not given."""
    for argument in process.arguments:
        key, _, value = argument.partition("=")
        if key == name:
            return value
    return None


def locally(manifest: dict[str, Any]) -> Topology:
    return local_topology(parse(manifest), 8000, consecutive_ports(), PurePath("/run/digits"))


def test_a_cluster_runs_one_head_and_one_kind_of_replica_pod_a_stage(digits: dict[str, Any]) -> None:
    topology = cluster_topology(parse(digits))
    assert topology.head.name == "digits-head"
    assert topology.head.arguments[:2] == ("serve", "builtin://digits")
    assert [(process.name, process.copies) for process in topology.replicas] == [("digits-painter", 2)]


def test_a_suspended_pipeline_has_the_same_processes_and_no_copy_of_any(digits: dict[str, Any]) -> None:
    suspended, running = (cluster_topology(parse(edited(digits, {"spec.suspend": value}))) for value in (True, False))
    assert [process.copies for process in suspended.processes] == [0, 0]
    assert [process.arguments for process in suspended.processes] == [one.arguments for one in running.processes]


def test_replicas_in_a_cluster_find_the_head_by_its_service_name(digits: dict[str, Any]) -> None:
    (painter,) = cluster_topology(parse(digits)).replicas
    assert "--headless" in painter.arguments
    assert flag(painter, "--omni-master-address") == "digits-head.gallery.svc"
    assert flag(painter, "--omni-master-port") == "9000"
    assert flag(painter, "--omni-replica-address") == "$(POD_IP)"


def test_devices_are_those_of_all_replicas_in_the_process(digits: dict[str, Any]) -> None:
    manifest = edited(
        digits,
        {
            "spec.head.localReplicas": 1,
            "spec.stages.0.localReplicas": 2,
            "spec.stages.0.accelerator.count": 4,
            "spec.stages.0.parallelism.cfg": 4,
        },
    )
    topology = cluster_topology(parse(manifest))
    assert topology.head.devices == 4
    assert topology.replicas[0].devices == 8
    assert topology.replicas[0].data_ports == (9100, 9101)


def test_a_head_without_replicas_has_neither_devices_nor_engine_flags(digits: dict[str, Any]) -> None:
    head = cluster_topology(parse(digits)).head
    assert head.devices == 0
    assert flag(head, "--omni-dp-size-local") == "0"
    assert flag(head, "--max-num-seqs") is None


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


def test_a_claim_is_a_folder_to_the_worker(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model.source": "pvc://weights/qwen/image"})
    assert cluster_topology(parse(manifest)).replicas[0].arguments[1] == "/models/weights/qwen/image"
    manifest = edited(digits, {"spec.model.source": "pvc://weights"})
    assert cluster_topology(parse(manifest)).replicas[0].arguments[1] == "/models/weights"


def test_the_stage_config_names_the_stages_and_no_counts(digits: dict[str, Any]) -> None:
    one, three = cluster_topology(parse(digits)), cluster_topology(parse(edited(digits, {"spec.replicas": 3})))
    assert json.loads(one.stage_config) == {"stages": [{"id": 0, "name": "painter", "engine": "diffusion"}]}
    assert one.stage_config == three.stage_config
    assert one.head == three.head


# ---- several stages

PAINTER = {"name": "painter", "engine": "diffusion", "input": "hidden-states"}
ENCODER = {"name": "encoder", "engine": "autoregressive", "task": "encode"}
REWRITER = {"name": "rewriter", "engine": "autoregressive"}


def test_each_stage_has_a_kind_of_pod_and_a_count_of_its_own(two: dict[str, Any]) -> None:
    topology = cluster_topology(parse(edited(two, {"spec.stages.1.replicas": 3})))
    assert [(process.name, process.copies) for process in topology.replicas] == [("two-thinker", 1), ("two-painter", 3)]
    assert [flag(process, "--engine") for process in topology.replicas] == ["autoregressive", "diffusion"]


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


def test_each_pod_has_the_claims_it_reads_and_the_head_has_all(two: dict[str, Any]) -> None:
    claims = {
        "spec.model.source": "pvc://weights/painter",
        "spec.stages.0.model": {"source": "pvc://language/qwen"},
    }
    topology = cluster_topology(parse(edited(two, claims)))
    thinker, painter = topology.replicas
    assert (thinker.claims, thinker.arguments[1]) == (("language",), "/models/language/qwen")
    assert (painter.claims, painter.arguments[1]) == (("weights",), "/models/weights/painter")
    assert topology.head.claims == ("weights", "language")
    assert '"model": "/models/language/qwen"' in topology.stage_config


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


def test_the_head_has_time_for_requests_in_every_stage(two: dict[str, Any]) -> None:
    slow = {"spec.stages.0.drain": {"timeoutSeconds": 20}, "spec.stages.1.drain": {"timeoutSeconds": 300}}
    slow |= {"spec.stages.0.startupTimeoutSeconds": 30, "spec.stages.1.startupTimeoutSeconds": 1800}
    head = cluster_topology(parse(edited(two, slow))).head
    assert (head.drain_seconds, head.startup_seconds) == (320, 1800)


UNASKED = {
    "all have replicas": ({}, ()),
    "one has none": ({"spec.stages.0.replicas": 0}, ("thinker",)),
    "none has any": ({"spec.stages.0.replicas": 0, "spec.stages.1.replicas": 0}, ("thinker", "painter")),
    "the head has the only ones": (
        {"spec.stages.1.replicas": 0, "spec.head": {"stage": "painter", "localReplicas": 1}},
        (),
    ),
}


@pytest.mark.parametrize("row", UNASKED)
def test_stages_of_which_no_replica_is_asked_for(two: dict[str, Any], row: str) -> None:
    edits, expected = UNASKED[row]
    assert cluster_topology(parse(edited(two, edits))).stages_without_replicas == expected
    assert locally(edited(two, edits)).stages_without_replicas == expected


# ---- one machine


def test_all_processes_have_the_secret(two: dict[str, Any]) -> None:
    for topology, file in (
        (cluster_topology(parse(two)), "/etc/omnipipeline-keys/secret"),
        (locally(two), "/run/digits/secret"),
    ):
        assert {flag(process, "--omni-secret-file") for process in topology.processes} == {file}


def test_one_machine_runs_a_process_for_every_copy(digits: dict[str, Any]) -> None:
    topology = locally(edited(digits, {"spec.replicas": 3}))
    assert [process.name for process in topology.processes] == ["head", "painter-0", "painter-1", "painter-2"]
    assert all(flag(process, "--omni-master-address") == "127.0.0.1" for process in topology.processes)
    assert all(flag(process, "--host") == "127.0.0.1" for process in topology.processes)


@given(replicas=st.integers(0, 5), local=st.integers(1, 3), in_head=st.integers(0, 3))
def test_on_one_machine_no_port_is_given_twice(replicas: int, local: int, in_head: int) -> None:
    manifest = {
        "apiVersion": "omnipipeline.dev/v1alpha1",
        "kind": "OmniPipeline",
        "metadata": {"name": "digits"},
        "spec": {
            "model": {"source": "builtin://digits"},
            "replicas": replicas,
            "head": {"localReplicas": in_head},
            "stages": [{"name": "painter", "engine": "diffusion", "localReplicas": local}],
        },
    }
    topology = locally(manifest)
    ports = [port for process in topology.processes for port in (process.http_port, *process.data_ports)]
    ports += [
        int(flag(topology.head, name) or 0)
        for name in ("--omni-master-port", "--omni-coordinator-port", "--omni-coordinator-pub-port")
    ]
    assert len(set(ports)) == len(ports)
    assert sum(len(process.data_ports) for process in topology.processes) == replicas * local + in_head
