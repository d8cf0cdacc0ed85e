"""The balancing policies."""

import random
from collections import Counter

import pytest

from omni_worker.errors import UsageError
from omni_worker.orchestrator.balancers import (
    BALANCERS,
    Candidate,
    LeastQueueLengthBalancer,
    RandomBalancer,
    RoundRobinBalancer,
    make_balancer,
)


def candidates(*loads):
    return [Candidate((0, i), in_flight=load, reported=0) for i, load in enumerate(loads)]


def test_round_robin_gives_each_its_turn():
    balancer = RoundRobinBalancer()
    assert [balancer.choose(candidates(0, 0, 0)).key[1] for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_serves_a_newcomer_and_does_not_mind_one_that_left():
    balancer = RoundRobinBalancer()
    for _ in range(4):
        balancer.choose(candidates(0, 0))
    assert balancer.choose(candidates(0, 0, 0)).key == (0, 2)
    assert balancer.choose(candidates(0)).key == (0, 0)


def test_random_reaches_all_about_equally():
    balancer = RandomBalancer(random.Random(0))
    counts = Counter(balancer.choose(candidates(0, 0, 0)).key for _ in range(3000))
    assert all(900 < count < 1100 for count in counts.values())


def test_least_queue_length_takes_the_emptiest_and_shares_ties():
    balancer = LeastQueueLengthBalancer()
    assert balancer.choose(candidates(3, 1, 2)).key == (0, 1)
    assert {balancer.choose(candidates(1, 1, 1)).key for _ in range(3)} == {(0, 0), (0, 1), (0, 2)}


def test_least_queue_length_believes_its_own_count_over_a_stale_report():
    stale = [Candidate((0, 0), in_flight=9, reported=0), Candidate((0, 1), in_flight=0, reported=4)]
    assert LeastQueueLengthBalancer().choose(stale).key == (0, 1)
    after_a_burst = [Candidate((0, 0), in_flight=1, reported=0), Candidate((0, 1), in_flight=0, reported=3)]
    assert LeastQueueLengthBalancer().choose(after_a_burst).key == (0, 1)


def test_a_report_breaks_the_tie_between_replicas_that_hold_none_of_our_requests():
    orphaned = [Candidate((0, 0), in_flight=0, reported=2), Candidate((0, 1), in_flight=0, reported=0)]
    assert LeastQueueLengthBalancer().choose(orphaned).key == (0, 1)


def test_every_policy_has_its_balancer_and_others_are_refused():
    assert {type(make_balancer(policy)) for policy in BALANCERS} == set(BALANCERS.values())
    with pytest.raises(UsageError, match="round-robin"):
        make_balancer("fastest")
