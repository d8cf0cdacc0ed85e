"""What the multi-process executor costs, as ratios within one run: round trips, and tensors against memcpy.

Ids only: `execute` with 8 ids and no tensor, against a bare ZeroMQ ping over the same kind of socket.

Tensors of 64 KiB to 64 MiB, each against one memcpy (numpy's) of as many bytes to one place that is used again and
again, as a place in the pool is. What is sent, and copied, is another tensor every time, of a set that exceeds the
caches: nobody sends the same one twice.

- pool: the tensor is written into the pool, and is a tensor at the other end. One copy; both ends in this process.
- message: the same with all that a message needs: the tensor is found in it and described, the description is read.
- to a worker, from a worker: what the tensor adds to a round trip of the executor, over the same call without one.
- whole call: that round trip with all that is in it, two wake-ups of a process among them.

A figure is memcpy's time over the measured one: 1 is as fast as memcpy. The cells are interleaved, and the median over
the rounds is reported with its quartiles, since an absolute time on a shared machine means nothing.

    python -m benchmarks.executor [--quick] [--rounds 15] [--ranks 1]
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import zmq
from benchmarks import common
from rich.progress import track
from rich.table import Table

from omni_worker.engine.executor.channel import decode, encode, make_socket, new_endpoint
from omni_worker.engine.executor.multiproc import MultiprocExecutor, RunnerSpec
from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput
from omni_worker.transport.shared_memory import Block, Reader, Writer, create_pool

KIB, MIB = 1 << 10, 1 << 20
SIZES = {
    "64 KiB + 1": 64 * KIB + 1, "256 KiB": 256 * KIB, "1 MiB": MIB, "4 MiB": 4 * MIB, "16 MiB": 16 * MIB,
    "64 MiB": 64 * MIB,
}  # fmt: skip
IDS = tuple(f"request-{i}" for i in range(8))
TIMEOUT = 60.0


def tensors_of(size: int) -> Iterator[torch.Tensor]:
    """One tensor after another, round and round, more than fit into a cache."""
    return itertools.cycle([torch.ones(size, dtype=torch.uint8) for _ in range(max(2, 64 * MIB // size))])


class Bench(Runner):
    """Answers at once, and holds a tensor of every size."""

    rpc_methods = ("stats", "take", "give")

    def __init__(self) -> None:
        self._tensors = {size: tensors_of(size) for size in SIZES.values()}

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        entries = (RequestOutput(id, "key", step=1, total_steps=9) for id in output.cached)
        return RunnerOutput(output.step_id, tuple(entries))

    def stats(self) -> dict[str, int]:
        return {}

    def take(self, tensor: torch.Tensor | None) -> None:
        """Get a tensor, or nothing."""

    def give(self, size: int) -> torch.Tensor | None:
        """A tensor of so many bytes, or nothing."""
        return next(self._tensors[size]) if size else None

    def close(self) -> None:
        pass


def build(ranks: object) -> tuple[Runner, None]:
    """The factory that every worker calls."""
    return Bench(), None


class Ping:
    """A process that sends back what it gets, over a pair of ZeroMQ sockets."""

    def __init__(self) -> None:
        endpoint = new_endpoint()
        self._socket = make_socket(zmq.Context.instance())
        self._socket.bind(endpoint)
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks.executor", "--echo", endpoint])
        self()

    def __call__(self) -> None:
        self._socket.send(b"request" * len(IDS))
        self._socket.recv()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def echo(endpoint: str) -> None:
    """What that process does."""
    socket = make_socket(zmq.Context.instance())
    socket.connect(endpoint)
    while True:
        socket.send(socket.recv())


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median of some calls, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(executor: MultiprocExecutor, rounds: int) -> dict[str, dict[str, list[float]]]:
    """The seconds of each cell, a list over the rounds."""
    descriptor = create_pool()
    writer, reader = Writer(descriptor, 1), Reader(descriptor, 1)
    tensors = {name: tensors_of(size) for name, size in SIZES.items()}
    target = np.zeros(max(SIZES.values()), np.uint8)
    ping = Ping()
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in ("ids", *SIZES)}

    def put(data: np.ndarray) -> Block:
        block = writer.put(data)
        assert block is not None
        return block

    def note(row: str, cell: str, call: Callable[[], object], repeats: int) -> None:
        figures[row].setdefault(cell, []).append(seconds(call, repeats))

    step = SchedulerOutput(1, cached=IDS)
    for _ in track(range(rounds), description="rounds"):
        note("ids", "ping", ping, 200)
        note("ids", "execute", lambda: executor.execute(step), 200)
        for name, given in tensors.items():
            size = SIZES[name]
            repeats, room = max(5, min(100, 64 * MIB // size)), target[:size]
            note(name, "memcpy", lambda given=given, room=room: np.copyto(room, next(given).numpy()), repeats)
            note(name, "pool", lambda given=given: torch.from_numpy(reader.take(put(next(given).numpy()))), repeats)
            note(name, "message", lambda given=given: decode(encode(next(given), writer), reader), repeats)
            for cell, method, arguments in (
                ("nothing to", "take", itertools.repeat(None)), ("to", "take", given),
                ("nothing from", "give", itertools.repeat(0)), ("from", "give", itertools.repeat(size)),
            ):  # fmt: skip
                note(name, cell, lambda m=method, a=arguments: executor.collective_rpc(m, (next(a),), TIMEOUT), repeats)
    ping.close()
    return figures


def ratios(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """What is reported, of the same round always."""
    ids = figures["ids"]
    table = {"ids": {"execute / ping": [own / bare for own, bare in zip(ids["execute"], ids["ping"], strict=True)]}}
    for name in SIZES:
        row = figures[name]
        copies = row["memcpy"]
        table[name] = {
            cell: [copy / own for copy, own in zip(copies, row[cell], strict=True)] for cell in ("pool", "message")
        }
        for way, label in (("to", "to a worker"), ("from", "from a worker")):
            calls = list(zip(copies, row[way], row[f"nothing {way}"], strict=True))
            table[name][label] = [copy / max(own - empty, 1e-9) for copy, own, empty in calls]
            table[name][f"{label}, whole call"] = [copy / own for copy, own, _ in calls]
    return table


def show(reported: dict[str, dict[str, list[float]]], ids: dict[str, list[float]]) -> None:
    """Print the tables."""

    def text(values: list[float]) -> str:
        low, middle, high = statistics.quantiles(values, n=4)
        return f"{middle:.2f} [{low:.2f}..{high:.2f}]"

    pings, steps = (statistics.median(ids[cell]) * 1e6 for cell in ("ping", "execute"))
    common.console.print(
        f"a round trip with {len(IDS)} ids takes {text(reported['ids']['execute / ping'])} times a bare ZeroMQ ping "
        f"(here {steps:.0f} µs and {pings:.0f} µs)"
    )
    table = Table(title="tensors, as a fraction of memcpy's speed (1 is as fast)")
    table.add_column("")
    for name in reported["1 MiB"]:
        table.add_column(name, justify="right")
    for name in SIZES:
        table.add_row(name, *map(text, reported[name].values()))
    common.console.print(table)


def main() -> None:
    """Measure every cell and print the tables, or be the process that is pinged."""
    parser = common.parser(__doc__, "executor")
    parser.add_argument("--rounds", type=int, default=15, help="times each cell is measured")
    parser.add_argument("--ranks", type=int, default=1, help="worker processes")
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.echo:
        echo(args.echo)
    args.core = -1  # an executor and its workers have a core each
    common.start(args)
    before = common.machine()
    executor = MultiprocExecutor(RunnerSpec("benchmarks.executor:build"), args.ranks)
    try:
        figures = measure(executor, 2 if args.quick else args.rounds)
    finally:
        executor.shutdown()
    reported = ratios(figures)
    show(reported, figures["ids"])
    if not args.quick:
        common.write(args.output, before, {"ranks": args.ranks, "ratios": reported})


if __name__ == "__main__":
    main()
