"""The balancing policies."""

import random
from collections import Counter

import pytest

from omni_worker.errors import UsageError
from omni_worker.orchestrator.balancers import (
    BALANCERS,
    LeastQueueLengthBalancer,
    PowerOfTwoBalancer,
    RandomBalancer,
    RoundRobinBalancer,
    make_balancer,
)


def filled(balancer, *loads):
    for i, load in enumerate(loads):
        balancer.put((0, i), load)
    return balancer


def test_round_robin_gives_each_its_turn():
    balancer = filled(RoundRobinBalancer(), 0, 0, 0)
    first = [balancer.choose() for _ in range(3)]
    assert sorted(first) == [(0, 0), (0, 1), (0, 2)]
    assert [balancer.choose() for _ in range(6)] == first * 2


def test_round_robin_serves_a_newcomer_and_does_not_mind_one_that_left():
    balancer = filled(RoundRobinBalancer(), 0, 0)
    for _ in range(4):
        balancer.choose()
    balancer.put((0, 2), 0)
    assert balancer.choose() == (0, 2)
    balancer.remove((0, 1))
    balancer.remove((0, 2))
    assert balancer.choose() == (0, 0)


def test_random_reaches_all_about_equally():
    balancer = filled(RandomBalancer(random.Random(0)), 0, 0, 0)
    counts = Counter(balancer.choose() for _ in range(3000))
    assert all(900 < count < 1100 for count in counts.values())


def test_least_queue_length_takes_the_emptiest_and_shares_ties():
    assert filled(LeastQueueLengthBalancer(), 3, 1, 2).choose() == (0, 1)
    balancer = filled(LeastQueueLengthBalancer(), 1, 1, 1)
    assert {balancer.choose() for _ in range(3)} == {(0, 0), (0, 1), (0, 2)}


def test_least_queue_length_follows_the_loads():
    balancer = filled(LeastQueueLengthBalancer(), 0, 5)
    balancer.put((0, 0), 6)
    assert balancer.choose() == (0, 1)
    balancer.put((0, 1), 7)
    assert balancer.choose() == (0, 0)


def test_power_of_two_never_takes_the_fullest_and_spares_the_full():
    balancer = filled(PowerOfTwoBalancer(random.Random(0)), 9, 1, 5)
    counts = Counter(balancer.choose() for _ in range(3000))
    assert (0, 0) not in counts
    assert 1900 < counts[0, 1] < 2100


@pytest.mark.parametrize("policy", BALANCERS)
class TestEveryPolicy:
    def test_leaves_out_what_it_is_told_to(self, policy):
        balancer = filled(make_balancer(policy), *range(20))
        without = {(0, i) for i in range(20) if i != 7}
        assert [balancer.choose(without) for _ in range(50)] == [(0, 7)] * 50
        assert balancer.choose({*without, (0, 7)}) is None

    def test_has_nothing_to_give_when_it_is_empty(self, policy):
        balancer = make_balancer(policy)
        assert balancer.choose() is None
        balancer.put((0, 0), 1)
        balancer.put((0, 0), 2)
        balancer.remove((0, 0))
        balancer.remove((0, 0))
        assert balancer.choose() is None

    def test_keeps_exactly_those_that_were_put_in_and_not_taken_out(self, policy):
        source, balancer, held = random.Random(1), make_balancer(policy), {}
        for _ in range(2000):
            key = (0, source.randrange(30))
            if source.random() < 0.4:
                balancer.remove(key)
                held.pop(key, None)
            else:
                held[key] = source.randrange(5)
                balancer.put(key, held[key])
            chosen = balancer.choose()
            assert (chosen in held) if held else chosen is None
            if policy == "least-queue-length" and held:
                assert held[chosen] == min(held.values())


def test_every_policy_has_its_balancer_and_others_are_refused():
    assert {type(make_balancer(policy)) for policy in BALANCERS} == set(BALANCERS.values())
    with pytest.raises(UsageError, match="round-robin"):
        make_balancer("fastest")
