"""One pipeline that cannot be made whole beside others that can: tried ever more seldom, it costs them nothing."""

import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.apiserver.faults import FaultyServer
from tests.kubernetes.apiserver.many import FOREIGN, NAMES, Many, wait_until_settled
from tests.kubernetes.apiserver.operators import Kubectl, Operator, StartOperator, eventually

pytestmark = pytest.mark.apiserver
MOST_SECONDS = 30.0
QUIET_SECONDS = 5.0


def delays(operator: Operator) -> list[float]:
    """The seconds after which the poisoned one was to be tried again, each time."""
    return [float(one) for one in re.findall(rf"/{FOREIGN}: .*; again in ([\d.]+) s", operator.log.read_text())]


def test_a_pipeline_that_always_fails_is_tried_ever_more_seldom_and_the_others_as_if_it_were_not_there(
    kubectl: Kubectl, way: FaultyServer, start_operator: StartOperator, digits: dict[str, Any], tmp_path: Path
) -> None:
    operator = start_operator(kubectl.namespace, kubeconfig=way.kubeconfig(tmp_path / "counting.kubeconfig"))
    many = Many(kubectl, digits)
    many.create()
    wait_until_settled(many)
    eventually(lambda: len(delays(operator)) >= 6, "several tries")

    def is_quiet() -> bool:
        before = operator.passes()
        time.sleep(QUIET_SECONDS)
        return operator.passes() == before

    eventually(is_quiet, "the end of what follows from their creation")
    passes, tried = operator.passes(), len(delays(operator))
    eventually(lambda: len(delays(operator)) >= tried + 2, "more tries")
    tries = len(delays(operator)) - tried
    others = len(NAMES) - 1
    assert operator.passes() - passes < tries * others, "more than a resync: the tries make passes of the others"
    for earlier, later in itertools.pairwise(delays(operator)):
        assert later > 1.5 * earlier or later > 0.8 * MOST_SECONDS
    many.scale()
    wait_until_settled(many)
    assert many.foreign_objects() == many.foreign
