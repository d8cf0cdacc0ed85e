"""The operator killed without a warning, again and again, while twenty pipelines are made, scaled and rolled.

Each successor finds what the one before had done so far. In the end there is what an undisturbed run gives.
"""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.apiserver.faults import FaultyServer
from tests.kubernetes.apiserver.many import Many, wait_until_settled
from tests.kubernetes.apiserver.operators import Kubectl, StartOperator

pytestmark = pytest.mark.apiserver
KILLS = 4
"""In each of the four edits."""
ALONE = ("--no-leader-election",)
"""Else each successor would first wait for the Lease of the one before to run out."""


def test_an_operator_killed_at_random_leaves_what_an_undisturbed_run_gives(
    kubectl: Kubectl,
    other: Kubectl,
    way: FaultyServer,
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    kubeconfig = way.kubeconfig(tmp_path / "counting.kubeconfig")
    disturbed, undisturbed = Many(kubectl, digits), Many(other, digits)
    start_operator(other.namespace)
    operator = start_operator(kubectl.namespace, kubeconfig=kubeconfig, flags=ALONE)
    killed_at = []
    for edit, same in (
        (disturbed.create, undisturbed.create),
        (disturbed.scale, undisturbed.scale),
        (disturbed.roll, undisturbed.roll),
        (disturbed.rename, undisturbed.rename),
    ):
        edit()
        same()
        for _ in range(KILLS):
            began = len(way.calls)
            deadline = time.monotonic() + 20
            wanted = chance.randrange(20, 120)  # calls of its own, since the time that it takes to start varies
            while len(way.calls) - began < wanted and time.monotonic() < deadline:
                time.sleep(0.02)
            operator.kill()
            killed_at.append(sum(call.is_write for call in way.calls[began:]))
            operator = start_operator(kubectl.namespace, kubeconfig=kubeconfig, flags=ALONE)
    assert sum(writes > 0 for writes in killed_at) >= KILLS, "killed in the midst of work, and not only before it"
    wait_until_settled(undisturbed)
    wait_until_settled(disturbed)
    assert disturbed.children() == undisturbed.children()
    assert disturbed.pods() == undisturbed.pods()
    assert disturbed.foreign_objects() == disturbed.foreign
    assert operator.is_running
    operator.kill()
    began = time.monotonic()
    successor = start_operator(kubectl.namespace, kubeconfig=kubeconfig, flags=ALONE)
    time.sleep(20)
    assert any(call.time >= began and "/secrets?" in call.path for call in way.calls), "it has looked at pipelines"
    assert way.writes_since(began) == []
    assert successor.is_running
