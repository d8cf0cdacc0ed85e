"""The pods of a stage over time: they follow the load in limited steps, stay when it is unknown, and never flap."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.planning.autoscale import (
    STEP_PODS,
    STEP_SECONDS,
    ScalingPolicy,
    StageLoad,
    decide,
    desired_pods,
    initial_history,
    relevant_counts,
)

POLL = 3.0


def policy(least: int = 1, most: int = 8, target: int = 4, elsewhere: int = 0, window: float = 60.0) -> ScalingPolicy:
    return ScalingPolicy(least, most, target, elsewhere, window)


def load(
    requests: int, running: int = 0, capacity: int = 32, in_pipeline: int | None = None, serving: int = 1
) -> StageLoad:
    return StageLoad(requests, requests if in_pipeline is None else in_pipeline, running, capacity, serving)


def counts(rules: ScalingPolicy, trace: Iterable[StageLoad | None], pods: int = 1) -> list[int]:
    """The decision at every poll of a trace, if there are always as many pods as decided."""
    memory, result = initial_history(pods, 0.0), []
    for number, each in enumerate(trace, start=1):
        pods, memory = decide(rules, pods, each, memory, number * POLL)
        result.append(pods)
    return result


# ---- one decision

# name: (policy, pods there are, load, the count that would be right)
DESIRED: dict[str, tuple[ScalingPolicy, int, StageLoad | None, int]] = {
    "no load wants the least": (policy(), 3, load(0), 1),
    "five requests need two pods of four": (policy(), 1, load(5), 2),
    "more than the most is not wanted": (policy(), 1, load(1000), 8),
    "a load near the target keeps the count": (policy(), 5, load(22), 5),
    "an unknown load keeps the count": (policy(), 5, None, 5),
    "an unknown load keeps the bounds all the same": (policy(most=3), 5, None, 3),
    "nothing anywhere lets the last pod go": (policy(least=0), 1, load(0), 0),
    "one request wakes a stage": (policy(least=0), 0, load(1), 1),
    "a request at another stage wakes this one too": (policy(least=0), 0, load(0, in_pipeline=1), 1),
    "a request at another stage keeps the last pod": (policy(least=0), 1, load(0, in_pipeline=1), 1),
    "replicas in the head take the first requests": (policy(least=0, elsewhere=4), 0, load(3), 0),
    "what the head's replicas cannot take needs a pod": (policy(least=0, elsewhere=4), 0, load(5), 1),
    "pods that run one request each stay while they do": (policy(), 3, load(3, running=3, capacity=1), 3),
    "pods that can run more side by side need not stay": (policy(), 3, load(3, running=3, capacity=32), 1),
    "no pod serves yet, and nobody waits any more": (policy(least=0), 1, load(0, serving=0), 1),
    "of several, one stays until a pod serves": (policy(least=0), 4, load(0, serving=0), 1),
    "no pod is awaited, and none is wanted": (policy(least=0), 0, load(0, serving=0), 0),
    "the head's own replicas serve meanwhile": (policy(least=0, elsewhere=4), 1, load(0, serving=0), 0),
    "what runs never asks for more than there are": (policy(), 2, load(2, running=9, capacity=1), 2),
}


@pytest.mark.parametrize("row", DESIRED)
def test_the_right_count_for_a_load(row: str) -> None:
    rules, pods, seen, expected = DESIRED[row]
    assert desired_pods(rules, pods, seen) == expected


# ---- traces

QUIET, BUSY = [load(0)], [load(32)]
ASKED, LOADING = [load(1, serving=0)], [load(0, serving=0)]

# name: (policy, pods to begin with, trace, the counts in the order in which they were decided, without repetitions)
TRACES: dict[str, tuple[ScalingPolicy, int, Sequence[StageLoad | None], list[int]]] = {
    "a steady load moves nothing": (policy(), 2, [load(8)] * 50, [2]),
    "a burst is followed in steps": (policy(most=20), 1, [load(80)] * 50, [5, 10, 20]),
    "the end of a burst is followed a window later": (policy(), 1, BUSY * 20 + QUIET * 60, [5, 8, 4, 2, 1]),
    "bursts closer together than the window keep the count": (policy(), 8, (BUSY + QUIET * 15) * 10, [8]),
    "a load that jitters around a boundary moves up once": (policy(), 2, [load(8), load(9)] * 100, [2, 3]),
    "a load that jitters within the tolerance moves nothing": (policy(), 5, [load(19), load(21)] * 100, [5]),
    "an unknown load moves nothing": (policy(), 4, [None] * 100, [4]),
    "a gap begins the window again": (policy(), 4, QUIET * 15 + [None] * 10 + QUIET * 15, [4]),
    "a restart holds the count for one window": (policy(), 4, QUIET * 19, [4]),
    "and then lets it go": (policy(), 4, QUIET * 40, [4, 2, 1]),
    "a stage at zero wakes at once, and grows as others do": (
        policy(least=0),
        0,
        QUIET * 5 + BUSY * 20,
        [0, 4, 8],
    ),
    "a stage falls asleep when a window passes without a request": (policy(least=0), 1, QUIET * 30, [1, 0]),
    "a stage that was woken stays for a window after it began to serve": (
        policy(least=0),
        0,
        ASKED * 3 + LOADING * 300 + QUIET * 19,
        [1],
    ),
    "and then falls asleep again": (policy(least=0), 0, ASKED * 3 + LOADING * 300 + QUIET * 30, [1, 0]),
    "a wish that comes while a step rests is taken after it": (policy(), 1, [load(8), *BUSY * 12], [2, 6, 8]),
    "bounds that were lowered hold at once": (policy(most=3), 7, BUSY * 3, [3]),
    "bounds that were raised hold at once": (policy(least=5, most=9), 1, QUIET * 3, [5]),
    "without a window, a falling load is followed at once": (policy(window=0), 4, QUIET * 2, [2]),
}


@pytest.mark.parametrize("row", TRACES)
def test_a_trace(row: str) -> None:
    rules, pods, trace, expected = TRACES[row]
    seen = counts(rules, trace, pods)
    assert [seen[0], *(now for before, now in pairwise(seen) if now != before)] == expected


LOADS = st.one_of(
    st.none(), st.builds(load, st.integers(0, 200), st.integers(0, 40), st.integers(1, 32), st.integers(0, 9))
)
POLICIES = st.builds(
    lambda least, more, target, elsewhere, window: ScalingPolicy(least, least + more, target, elsewhere, window),
    st.integers(0, 4),
    st.integers(1, 30),
    st.integers(1, 10),
    st.sampled_from([0, 0, 4]),
    st.sampled_from([0.0, 10.0, 60.0]),
)


@given(POLICIES, st.integers(0, 40), st.lists(LOADS, max_size=80))
def test_on_any_trace_the_bounds_and_the_steps_are_kept(
    rules: ScalingPolicy, pods: int, trace: list[StageLoad | None]
) -> None:
    seen = [rules.bounded(pods), *counts(rules, trace, pods)]
    assert all(rules.min_pods <= count <= rules.max_pods for count in seen)
    for before, now in pairwise(seen):
        assert now - before <= max(STEP_PODS, before)
        assert before - now <= max(1, before // 2)


@given(POLICIES, st.integers(0, 40), st.lists(LOADS, max_size=80))
def test_on_any_trace_a_count_that_rose_stays_for_a_window(
    rules: ScalingPolicy, pods: int, trace: list[StageLoad | None]
) -> None:
    seen = [rules.bounded(pods), *counts(rules, trace, pods)]
    for rise in (n for n in range(1, len(seen)) if seen[n] > seen[n - 1]):
        within = int(max(0.0, rules.window_seconds - 0.1) / POLL)
        assert min(seen[rise : rise + within + 1]) >= seen[rise]


@given(POLICIES, st.integers(0, 40), st.lists(LOADS, max_size=40), LOADS)
def test_under_a_steady_load_the_count_comes_to_rest(
    rules: ScalingPolicy, pods: int, before: list[StageLoad | None], steady: StageLoad | None
) -> None:
    long = int((rules.window_seconds + 8 * STEP_SECONDS) / POLL)
    seen = counts(rules, [*before, *[steady] * (2 * long)], pods)[len(before) + long :]
    assert len(set(seen)) == 1
    assert steady is None or seen[-1] >= desired_pods(rules, seen[-1], steady)


@given(POLICIES, st.integers(0, 12), st.lists(LOADS, max_size=80))
def test_on_any_trace_what_runs_keeps_its_place(rules: ScalingPolicy, pods: int, trace: list[StageLoad | None]) -> None:
    memory, count = initial_history(pods, 0.0), pods
    for number, each in enumerate(trace, start=1):
        now, memory = decide(rules, count, each, memory, number * POLL)
        if each is not None and now < count <= rules.max_pods:
            assert now * each.capacity >= min(
                each.running - rules.requests_in_head, count * each.capacity, rules.max_pods
            )
        count = now


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 9)), max_size=30))
def test_what_is_remembered_is_short_and_keeps_the_maximum(pairs: list[tuple[int, int]]) -> None:
    desired = [(float(when), count) for when, count in sorted(pairs)]
    for since in range(-1, 101, 10):
        counting = [count for when, count in desired if when > since]
        kept = relevant_counts(desired, since)
        assert max((count for _, count in kept), default=None) == max(counting, default=None)
        assert len(kept) <= 10
