"""What an array costs between head and replica, in messages and in shared memory, as ratios within one run.

A head and a replica, a process each, with a real ReplicaClient and a real ReplicaServer; its engine answers at once.
The head has two connections: one shares memory, over the other all arrays travel in messages. Each cell is a round trip
with an array one way, to the replica or from it; `ids` is the same with none.

- whole: memcpy's time over the round trip's.
- added: memcpy's time over what the array adds to the round trip with none.

1 is as fast as memcpy: numpy's, of as many bytes, to one place. What is sent and copied is another array every time, of
a set that exceeds the caches. The cells are interleaved; a figure is the median over the rounds, with the range.

    python -m benchmarks.transport [--rounds 7] [--quick] [--output benchmarks/results/transport.json]
"""

import argparse
import asyncio
import itertools
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from benchmarks import common
from rich.table import Table

from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerRequest
from omni_worker.replica.client import ReplicaClient
from omni_worker.replica.server import ReplicaServer
from omni_worker.requests import GenerationParams, GenerationResult

KIB, MIB = 1 << 10, 1 << 20
SIZES = {
    "64 KiB + 1": 64 * KIB + 1, "256 KiB": 256 * KIB, "1 MiB": MIB, "4 MiB": 4 * MIB, "16 MiB": 16 * MIB,
    "64 MiB": 64 * MIB,
}  # fmt: skip
WAYS = ("to", "from")
MEANS = {"memory": True, "messages": False}


def arrays_of(size: int) -> Iterator[np.ndarray]:
    """One array after another, round and round, more than fit into a cache."""
    return itertools.cycle([np.ones(size, np.uint8) for _ in range(max(2, 64 * MIB // size))])


class Echo:
    """An engine that answers at once, in the event loop: with an array of as many bytes as the request has steps."""

    def __init__(self, server: ReplicaServer) -> None:
        self._server = server
        self._arrays = {size: arrays_of(size) for size in SIZES.values()}

    def add(self, request: SchedulerRequest) -> None:
        """Answer."""
        size = request.payload.steps
        result = GenerationResult(images=[next(self._arrays[size])] if size in self._arrays else [])
        self._server.on_event(Finished(request.id, RequestStatus.COMPLETED, result))

    def abort(self, id: str) -> None:
        """Nothing runs."""


async def replica(port: int) -> None:
    """The replica, for ever."""
    server = ReplicaServer(8)
    server.engine = Echo(server)  # type: ignore[assignment]
    server.bind("127.0.0.1", port)
    await server.run()


class Head:
    """Both connections to the replica."""

    def __init__(self, port: int) -> None:
        address = f"tcp://127.0.0.1:{port}"
        self._clients = {
            name: ReplicaClient(address, lambda is_open: None, shares_memory=shares) for name, shares in MEANS.items()
        }
        self._ids = map(str, itertools.count())

    async def ask(self, means: str, give: int = 1, array: np.ndarray | None = None) -> GenerationResult:
        """One round trip: an array there, or one of so many bytes back."""
        embeddings = {} if array is None else {"a": array}
        params = GenerationParams(prompt="x", steps=give, embeddings=embeddings)
        return await self._clients[means].generate(next(self._ids), params, lambda news: None)

    async def close(self) -> None:
        """Disconnect."""
        for client in self._clients.values():
            await client.close()


async def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The median of some calls, after one that warms up."""
    await call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def measure(head: Head, rounds: int, sizes: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """The seconds of each cell, a list over the rounds."""
    arrays = {name: arrays_of(size) for name, size in sizes.items()}
    target = np.zeros(max(sizes.values()), np.uint8)
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in ("ids", *sizes)}

    async def note(row: str, cell: str, repeats: int, call: Callable[[], Any]) -> None:
        figures[row].setdefault(cell, []).append(await seconds(call, repeats))

    for means in MEANS:  # the first large array of a connection has the pools opened
        await head.ask(means, array=next(arrays[next(iter(sizes))]))
        await head.ask(means, give=next(iter(sizes.values())))
    await asyncio.sleep(0.2)
    for _ in range(rounds):
        for means in MEANS:
            await note("ids", means, 50, lambda means=means: head.ask(means))
        for name, size in sizes.items():
            given, room, repeats = arrays[name], target[:size], max(3, min(30, 16 * MIB // size))

            async def copy(given: Iterator[np.ndarray] = given, room: np.ndarray = room) -> None:
                np.copyto(room, next(given))

            await note(name, "memcpy", repeats, copy)
            for means in MEANS:
                await note(name, f"to, {means}", repeats, lambda m=means, g=given: head.ask(m, array=next(g)))
                await note(name, f"from, {means}", repeats, lambda m=means, size=size: head.ask(m, give=size))
    return figures


def ratios(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """What is reported, of the same round always."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, row in figures.items():
        if name == "ids":
            continue
        table[name] = {}
        for way, means in itertools.product(WAYS, MEANS):
            cells = list(zip(row["memcpy"], row[f"{way}, {means}"], figures["ids"][means], strict=True))
            table[name][f"{way}, {means}"] = common.spread([copy / own for copy, own, _ in cells])
            added = [copy / max(own - none, 1e-9) for copy, own, none in cells]
            table[name][f"{way}, {means}, added"] = common.spread(added)
    return table


async def run(port: int, rounds: int, sizes: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """Connect and measure."""
    head = Head(port)
    try:
        await asyncio.wait_for(head.ask("memory"), 60)
        return await measure(head, rounds, sizes)
    finally:
        await head.close()


def bench(args: argparse.Namespace) -> None:
    """Measure, show and write."""
    before = common.machine()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sizes, rounds = (dict(list(SIZES.items())[:3]), 2) if args.quick else (SIZES, args.rounds)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.transport", "--replica", str(port)])
    try:
        figures = asyncio.run(run(port, rounds, sizes))
    finally:
        process.kill()
        process.wait()
    reported = ratios(figures)
    table = Table("", *reported, title="an array's round trip, memcpy = 1; more is better")
    for cell in next(iter(reported.values())):
        table.add_row(cell, *(common.text(row[cell], "") for row in reported.values()))
    common.console.print(table)
    if not args.quick:
        microseconds = {means: statistics.median(values) * 1e6 for means, values in figures["ids"].items()}
        common.write(args.output, before, {"ratios": reported, "ids_us": microseconds, "rounds": rounds})


def main() -> None:
    """Run the benchmark, or be its replica."""
    parser = common.parser(__doc__, "transport")
    parser.add_argument("--rounds", type=int, default=7, help="times each cell is measured")
    parser.add_argument("--replica", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.core = -1  # a head and a replica have a core each
    common.start(args)
    if args.replica:
        asyncio.run(replica(args.replica))
    else:
        bench(args)


if __name__ == "__main__":
    main()
