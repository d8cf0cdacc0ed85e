"""Which process gets which GPU of this machine."""

from pathlib import Path
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.local.gpus import assign_gpus
from omni_operator.local.ports import FreePorts
from omni_operator.planning.topology.local import local_topology

CASES = {
    "no GPU: everything runs on the CPU": ([], ["", "", ""]),
    "enough GPUs: each replica has its own": (["0", "1"], ["", "0", "1"]),
    "more GPUs than replicas: some stay free": (["0", "1", "2"], ["", "0", "1"]),
    "one GPU: the replicas share it": (["3"], ["", "3", "3"]),
}


@pytest.mark.parametrize("row", CASES)
def test_gpus_are_assigned_to_processes(digits: dict[str, Any], row: str) -> None:
    available, expected = CASES[row]
    topology = local_topology(parse(digits), 8000, FreePorts(), Path())
    assert assign_gpus(topology.processes, available) == expected
