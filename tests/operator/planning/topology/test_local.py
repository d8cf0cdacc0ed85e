"""The processes of a pipeline on one machine: a process for each copy, and no port twice."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.operator.edits import edited
from tests.operator.planning.topology.layouts import flag, locally


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
