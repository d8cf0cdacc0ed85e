"""The processes of a pipeline on Kubernetes: which pods, how many, and how they find the head."""

from typing import Any

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.edits import edited
from tests.operator.planning.topology.layouts import flag


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


def test_each_stage_has_a_kind_of_pod_and_a_count_of_its_own(two: dict[str, Any]) -> None:
    topology = cluster_topology(parse(edited(two, {"spec.stages.1.replicas": 3})))
    assert [(process.name, process.copies) for process in topology.replicas] == [("two-thinker", 1), ("two-painter", 3)]
    assert [flag(process, "--engine") for process in topology.replicas] == ["autoregressive", "diffusion"]
