"""From a pipeline to processes: how they are wired in a cluster and on one machine."""

import itertools
import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.spec import parse
from omni_operator.topology import Process, Topology, in_cluster, on_this_machine
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
    return on_this_machine(parse(manifest), 8000, consecutive_ports(), PurePath("/run/digits"))


def test_a_cluster_runs_one_head_and_one_kind_of_replica_pod_a_stage(digits: dict[str, Any]) -> None:
    topology = in_cluster(parse(digits))
    assert topology.head.name == "digits-head"
    assert topology.head.arguments[:2] == ("serve", "builtin://digits")
    assert [(process.name, process.copies) for process in topology.replicas] == [("digits-painter", 2)]


def test_replicas_in_a_cluster_find_the_head_by_its_service_name(digits: dict[str, Any]) -> None:
    (painter,) = in_cluster(parse(digits)).replicas
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
    topology = in_cluster(parse(manifest))
    assert topology.head.devices == 4
    assert topology.replicas[0].devices == 8
    assert topology.replicas[0].data_ports == (9100, 9101)


def test_a_head_without_replicas_has_neither_devices_nor_engine_flags(digits: dict[str, Any]) -> None:
    head = in_cluster(parse(digits)).head
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
    for topology in (in_cluster(parse(edited(digits, edits))), locally(edited(digits, edits))):
        process = topology.head if role == "head" else topology.replicas[0]
        assert flag(process, name) == expected


def test_a_claim_is_a_folder_to_the_worker(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model.source": "pvc://weights/qwen/image"})
    assert in_cluster(parse(manifest)).replicas[0].arguments[1] == "/models/weights/qwen/image"
    manifest = edited(digits, {"spec.model.source": "pvc://weights"})
    assert in_cluster(parse(manifest)).replicas[0].arguments[1] == "/models/weights"


def test_the_stage_config_names_the_stages_and_no_counts(digits: dict[str, Any]) -> None:
    one, three = in_cluster(parse(digits)), in_cluster(parse(edited(digits, {"spec.replicas": 3})))
    assert json.loads(one.stage_config) == {"stages": [{"id": 0, "name": "painter", "engine": "diffusion"}]}
    assert one.stage_config == three.stage_config
    assert one.head == three.head


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
