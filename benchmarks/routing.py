"""What choosing a replica costs: `pick` and `release` of a pool, against listing all replicas for every request.

Cells: each policy with 10, 100 and 1000 replicas. Requests come and go, so that each replica holds some four; between
them loads are reported, all in turn, and now and then a replica goes down and comes back. The naive scan lists the
replicas that are up and takes the least of them; it is measured in the same run, after some of the pool's.

    python -m benchmarks.routing [--requests 20000] [--output benchmarks/results/routing.json]
"""

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from benchmarks.common import console, machine, parser, quantile, start, write
from rich.table import Table

from omni_worker.config.records import Stage
from omni_worker.coordinator.messages import Replica, ReplicaLoad, ReplicaState
from omni_worker.model_card import ModelCard
from omni_worker.orchestrator.balancers import BALANCERS, make_balancer
from omni_worker.orchestrator.member import Member
from omni_worker.orchestrator.run_history import RunHistory
from omni_worker.orchestrator.stage_pool import StagePool

REPLICAS = (10, 100, 1000)
HELD = 4
LOST_EVERY = 500
SCAN_EVERY = 200  # seldom: a scan leaves cold caches to the pick after it
CARD = ModelCard(pipeline="P", mode="step")


class NoConnection:
    """What a pool needs of a replica that is never sent anything."""

    in_flight = 0

    def __init__(self, *_: Any) -> None:
        pass

    def lose(self, *_: str) -> None:
        """Nothing is in flight."""


@dataclass
class Cell:
    """Seconds of each call."""

    pick: list[float]
    release: list[float]
    naive: list[float]


def replica(number: int, state: ReplicaState = ReplicaState.UP, running: int = 0) -> Replica:
    """One of the fleet."""
    return Replica(
        stage_id=0,
        replica_id=number,
        uid=str(number),
        address=f"tcp://nowhere:{number}",
        state=state,
        card=CARD,
        load=ReplicaLoad(running=running),
    )


def naive(pool: StagePool) -> Member:
    """The least loaded of all that are up, found by looking at all."""
    up = [member for member in pool.members if member.is_up]
    return min(up, key=lambda member: (member.in_flight, member.other_requests))


async def measure(policy: str, count: int, requests: int) -> Cell:
    """Requests through a pool of `count` replicas, each timed."""
    source = random.Random(0)
    pool = StagePool(Stage(0, "painter"), make_balancer(policy), lambda key, uid: None, connect=NoConnection)  # type: ignore[arg-type]
    for number in range(count):
        pool.update(replica(number))
    cell, held = Cell([], [], []), deque[tuple[Member, RunHistory]]()
    down: int | None = None
    for number in range(requests + HELD * count):
        history = RunHistory(str(number))
        began = time.perf_counter()
        member = await pool.pick(history)
        picked = time.perf_counter()
        held.append((member, history))
        if number >= HELD * count:
            cell.pick.append(picked - began)
            other, other_history = held.popleft()
            began = time.perf_counter()
            pool.release(other, other_history)
            pool.forget(other_history.id)
            cell.release.append(time.perf_counter() - began)
            if number % SCAN_EVERY == 0:
                began = time.perf_counter()
                naive(pool)
                cell.naive.append(time.perf_counter() - began)
        pool.update(replica(number % count, running=source.randrange(8), state=_state(number % count, down)))
        if number % LOST_EVERY == 0:
            down, before = source.randrange(count), down
            pool.update(replica(down, ReplicaState.ERROR))
            if before is not None:
                pool.update(replica(before))
    return cell


def _state(number: int, down: int | None) -> ReplicaState:
    return ReplicaState.ERROR if number == down else ReplicaState.UP


def main() -> None:
    """Run the cells and print the table."""
    arguments = parser(__doc__, "routing")
    arguments.add_argument("--requests", type=int, default=20_000)
    args = arguments.parse_args()
    start(args)
    before = machine()
    figures: dict[str, Any] = {}
    table = Table(title="microseconds for one request: median / p99; and how much longer a scan takes, in the median")
    for name in ("policy", *(f"{count} replicas" for count in REPLICAS), "release, 1000", "scan, 1000"):
        table.add_column(name, justify="right")
    for policy in BALANCERS:
        row = [policy]
        for count in REPLICAS:
            cell = asyncio.run(measure(policy, count, 500 if args.quick else args.requests))
            values = {name: times(getattr(cell, name)) for name in ("pick", "release", "naive")}
            values["naive_ratio"] = {"p50": values["naive"]["p50"] / values["pick"]["p50"]}
            figures[f"{policy}, {count}"] = values
            row.append(f"{shown(values['pick'])}  ({values['naive_ratio']['p50']:.0f}x)")
        table.add_row(*row, shown(values["release"]), shown(values["naive"]))
    console.print(table)
    write(args.output, before, {"microseconds": figures})


def times(seconds: list[float]) -> dict[str, float]:
    """The median and the 99th percentile, in microseconds."""
    return {"p50": quantile(seconds, 0.5) * 1e6, "p99": quantile(seconds, 0.99) * 1e6}


def shown(values: dict[str, float]) -> str:
    """For the table."""
    return f"{values['p50']:.1f} / {values['p99']:.1f}"


if __name__ == "__main__":
    main()
