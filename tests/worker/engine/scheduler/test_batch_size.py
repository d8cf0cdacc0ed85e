"""The batch size that is found online."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_worker.engine.scheduler.batch_size import BatchSizes


def add(learner, key, size, seconds):
    learner.add_batch(key, size)
    learner.add_time(key, size, seconds)


def learned(a, b, sizes=(1, 2, 4, 8), bound=64):
    learner = BatchSizes(bound)
    for _ in range(10):
        for size in sizes:
            add(learner, "K", size, a + b * size)
    return learner.limit("K")


def test_nothing_is_known_of_a_key_that_never_ran_or_always_ran_at_one_size():
    assert BatchSizes(16).limit("K") == 16
    assert learned(1.0, 1.0, sizes=(3,), bound=16) == 16


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(1.0, 1.0, 9, id="half of a call is its overhead"),
        pytest.param(4.0, 1.0, 38, id="calls are mostly overhead"),
        pytest.param(0.0, 1.0, 1, id="no overhead at all"),
        pytest.param(1.0, 1e-6, 64, id="rows cost nothing: the bound"),
        pytest.param(-1.0, 1.0, 1, id="larger batches take more than their share"),
    ],
)
def test_a_batch_grows_as_far_as_doubling_gains_five_per_cent(a, b, expected):
    assert learned(a, b) == expected


def test_it_follows_a_machine_that_changes():
    learner = BatchSizes(64)
    for overhead in (10.0, 0.0):
        for _ in range(200):
            for size in (1, 4):
                add(learner, "K", size, overhead + size)
    assert learner.limit("K") <= 2


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(0, 1e3)), max_size=50))
def test_any_measurements_give_a_size_within_the_bounds(measurements):
    learner = BatchSizes(32)
    for size, seconds in measurements:
        add(learner, "K", size, seconds)
    assert 1 <= learner.limit("K") <= 32


def test_it_remembers_a_bounded_number_of_keys():
    learner = BatchSizes(32)
    for key in range(1000):
        add(learner, key, 1, 1.0)
    assert len(learner.fits) <= 256


def test_a_batch_without_a_known_time_counts_but_teaches_nothing():
    learner = BatchSizes(32)
    add(learner, "K", 2, 0.5)
    learner.add_batch("K", 4)
    fit = learner.fits["K"]
    assert (fit.batches, fit.calls, fit.seconds) == (2, 6, 0.5)
    learner.add_time("forgotten", 1, 1.0)
    assert list(learner.fits) == ["K"]
