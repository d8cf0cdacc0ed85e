"""Simulated bursts with stale reports: no replica gets much more than its share."""

import asyncio
import heapq
import random

import pytest

from .pools import pool_of, replica

REPLICAS = 100
REPORT_SECONDS = 1.0
SERVICE_SECONDS = 2.0
BURST, BURST_SECONDS = 300, 0.6


async def simulate(policy, heads=1, seconds=30.0, seed=0):
    """The highest and the mean number of requests on a replica after a burst. Reports are one second old."""
    source = random.Random(seed)
    pools = [pool_of(REPLICAS, policy) for _ in range(heads)]
    held = [0] * REPLICAS
    ends, peaks, means = [], [], []
    now, burst_at, report_at = 0.0, 0.0, REPORT_SECONDS
    seen = list(held)
    while now < seconds:
        now = min(burst_at, report_at, ends[0][0] if ends else seconds)
        while ends and ends[0][0] <= now:
            _, _, pool, member = heapq.heappop(ends)
            pool.release(member)
            held[member.replica.replica_id] -= 1
        if report_at <= now:
            for number, count in enumerate(seen):
                for pool in pools:
                    pool.update(replica(number, running=count))
            seen, report_at = list(held), report_at + REPORT_SECONDS
        if burst_at <= now:
            for number in range(BURST):
                pool = pools[number % heads]
                member = await pool.pick()
                held[member.replica.replica_id] += 1
                took = SERVICE_SECONDS * source.uniform(0.5, 1.5)
                heapq.heappush(ends, (now + took, len(peaks) * BURST + number, pool, member))
            burst_at += BURST_SECONDS
            peaks.append(max(held))
            means.append(sum(held) / REPLICAS)
    return max(peaks), sum(means) / len(means)


@pytest.mark.parametrize(
    ("policy", "bound"),
    [("least-queue-length", 1.5), ("power-of-two", 1.8), ("round-robin", 2.2), ("random", 3.5)],
)
def test_one_head_with_stale_reports_makes_no_herd(policy, bound):
    most, mean = asyncio.run(simulate(policy))
    assert mean > 5
    assert most <= bound * mean, f"{policy}: {most} on one replica, {mean:.1f} in the mean"


@pytest.mark.parametrize(("policy", "bound"), [("least-queue-length", 1.5), ("power-of-two", 1.8)])
def test_nor_do_three_heads_that_see_each_other_only_in_reports(policy, bound):
    most, mean = asyncio.run(simulate(policy, heads=3))
    assert most <= bound * mean, f"{policy}: {most} on one replica, {mean:.1f} in the mean"
