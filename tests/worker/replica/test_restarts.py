"""When a process that died may be restarted."""

import pytest

from omni_worker.replica.restarts import Restarts


@pytest.mark.parametrize(
    ("deaths", "pauses"),
    [
        pytest.param([(0, 5)], [1], id="the first is forgiven after a second"),
        pytest.param([(i * 10, 5) for i in range(6)], [1, 2, 4, 8, 16, None], id="a sixth within ten minutes is not"),
        pytest.param([(i * 150, 5) for i in range(8)], [1, 2, 4, 8, 8, 8, 8, 8], id="those of long ago do not count"),
        pytest.param([(0, 5), (1, 5), (90, 61), (95, 3)], [1, 2, 1, 2], id="a steady minute makes up for all before"),
        pytest.param(
            [(i, 0) for i in range(6)], [1, 2, 4, 8, 16, None], id="one that never comes up again is given up"
        ),
    ],
)
def test_when_a_process_is_started_again(deaths, pauses):
    budget = Restarts()
    assert [budget.pause(now, lived) for now, lived in deaths] == pauses
