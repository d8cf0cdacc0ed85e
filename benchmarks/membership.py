"""What membership costs with a large fleet: processor time of the coordinator, and bytes to a subscriber.

The coordinator has a process of its own. Another process is `--replicas` replicas, each with its own connection and a
heartbeat a second, evenly spread; with each of them the queue goes one up, one down or stays, some work is completed,
and the mean step wanders. The main process subscribes. Processor time is that of the whole process, ZeroMQ's thread
too, as a share of one core; the bytes are those that the subscriber got. Compared by turns, on the same replicas:

- `ours`, as a head runs it, and `ours, encrypted`: the same with a secret;
- `naive`: our messages, but each heartbeat wakes the loop, is answered, and is published with all there is to know of
  the replica; a snapshot every two seconds. So was ours at first;
- `peer's way`: the whole list as JSON after a tenth of a second with news, as vLLM-Omni 0.30.0 publishes; no answers.
  A reimplementation of its protocol, not the peer's code.

Then some replicas fall silent, and some are killed while the head talks to them: how soon a hub knows.

    python -m benchmarks.membership [--replicas 1000] [--seconds 20] [--repeats 3] [--quick] [--output FILE]
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import resource
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from benchmarks.membership_baselines import HOST, TIMEOUT_SECONDS, Naive, Peer
from benchmarks.ports import free_ports
from rich.console import Console
from rich.table import Table

from omni_worker.coordinator.coordinator import Coordinator, CoordinatorPorts
from omni_worker.coordinator.hub import MembershipView
from omni_worker.coordinator.messages import (
    Register,
    ReplicaLoad,
    ReplicaState,
    Report,
    decode_publication,
    encode,
)
from omni_worker.coordinator.registry import Registry
from omni_worker.model_card import ModelCard, ServingDefaults
from omni_worker.replica.client import ReplicaClient
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.sockets import make_socket

CARD = ModelCard(
    pipeline="QwenImagePipeline",
    mode="step",
    defaults=ServingDefaults(num_inference_steps=50, guidance_scale=4.0, width=1024, height=1024),
    negative_prompt=True,
    guidance=True,
)
SYSTEMS = ("ours", "ours, encrypted", "naive", "peer's way")
ANSWER_EVERY = 2  # of a replica's heartbeats, as such a timeout makes it
SETTLE_SECONDS = 4.0
VICTIMS = 10
QUICK = {"repeats": 1, "seconds": 3.0, "replicas": 100, "settle": 1.0, "victims": 2}
console = Console(width=140)


def hello(number: int, address: str) -> Register:
    """The greeting of replica `number`."""
    uid = random.Random(number).randbytes(8).hex()
    return Register(
        stage_id=0, uid=uid, address=address, engine="diffusion", digest="d" * 16, card=CARD, capacity=32,
        host=f"painter-{number:04d}.pipeline.default.svc",
    )  # fmt: skip


# ---- the coordinators, each in a process of its own


def serve(system: str, ports: list[int], hellos: list[Register], keys: CurveKeys | None, pipe: Connection) -> None:
    """The coordinator's process; on the pipe it takes addresses to watch, and answers anything else with its times."""
    asyncio.run(_serve(system, ports, hellos, keys, pipe))


async def _serve(
    system: str, ports: list[int], hellos: list[Register], keys: CurveKeys | None, pipe: Connection
) -> None:
    kept: list[Any] = []
    if system == "naive":
        kept.append(Naive(ports, hellos))
    elif system == "peer's way":
        kept.append(Peer(ports, hellos))
    else:
        registry = Registry({0: "d" * 16}, {0: "diffusion"}, TIMEOUT_SECONDS)
        coordinator = Coordinator(registry, HOST, CoordinatorPorts(*ports), TIMEOUT_SECONDS, keys)
        for one in hellos:  # the same replicas under the same ids; registering them is not what is measured
            registry.register(one, time.monotonic())
        coordinator.start()
        kept.append(coordinator)
    pipe.send(None)
    while True:
        asked = await asyncio.to_thread(pipe.recv)
        if isinstance(asked, list):
            for number, address in asked:
                kept.append(ReplicaClient(address, _tells(coordinator, number, hellos[number].uid), keys))
            await asyncio.sleep(1.0)
        pipe.send(time.process_time())


def _tells(coordinator: Coordinator, number: int, uid: str) -> Callable[..., None]:
    def on_connection(*is_open: bool) -> None:
        if not any(is_open):
            coordinator.on_disconnect((0, number), uid)

    return on_connection


# ---- the replicas, in another process


def beat(system: str, port: int, hellos: list[Register], keys: CurveKeys | None, pipe: Connection) -> None:
    """Heartbeats of all replicas, one a second each; a number on the pipe silences that replica, which is confirmed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, len(hellos) + 10)
    chance = random.Random(0)
    sockets = []
    for _ in hellos:
        made = make_socket(context, zmq.DEALER, keys, pings=system == "naive")
        made.connect(f"tcp://{HOST}:{port}")
        sockets.append(made)
        time.sleep(0.001)
    queues, completed = [chance.randrange(8) for _ in hellos], [0] * len(hellos)
    means = [chance.uniform(20, 60) for _ in hellos]
    silent: set[int] = set()
    began, turn = time.monotonic(), 0
    while True:
        number, round = turn % len(hellos), turn // len(hellos)
        wait = began + turn / len(hellos) - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        turn += 1
        while pipe.poll():
            silent.add(pipe.recv())
            pipe.send(None)
        if number in silent:
            continue
        queues[number] = max(0, queues[number] + chance.choice((-1, 0, 1)))
        completed[number] += chance.randrange(2)
        means[number] *= chance.uniform(0.98, 1.02)
        if system == "peer's way":
            event = {
                "replica": number, "input_addr": hellos[number].address, "output_addr": hellos[number].address,
                "stage_id": 0, "event_type": "heartbeat", "status": "up", "queue_length": queues[number],
            }  # fmt: skip
            message = json.dumps(event).encode()
        else:
            load = ReplicaLoad(
                queue_length=queues[number], running=min(32, 2 + queues[number]), capacity=32,
                completed=completed[number], step_ms=round_to_hundredths(means[number]),
            )  # fmt: skip
            asks = round == 0 or (round + number) % ANSWER_EVERY == 0
            message = encode(Report(0, number, hellos[number].uid, round + 1, ReplicaState.UP, load, asks))
        with contextlib.suppress(zmq.Again):
            sockets[number].send(message, zmq.NOBLOCK)
            while True:
                sockets[number].recv(zmq.NOBLOCK)


def round_to_hundredths(value: float) -> float:
    """As a replica reports its mean step."""
    return round(value, 2)


def listen(port: int, keys: CurveKeys | None, pipe: Connection) -> None:
    """A replica's data socket and nothing else; it is killed in the end."""
    made = make_socket(zmq.Context(), zmq.ROUTER, keys)
    made.bind(f"tcp://{HOST}:{port}")
    pipe.send(None)
    while True:
        made.recv_multipart()


# ---- the measurement


class Run:
    """A coordinator, its replicas and a subscriber."""

    def __init__(self, system: str, replicas: int, settle: float, victims: int) -> None:
        self.system = system
        self._settle = settle
        self._keys = CurveKeys.from_secret(secrets.token_bytes(32)) if system == "ours, encrypted" else None
        self._ports = free_ports(3)
        self._data = dict(enumerate(free_ports(victims)))
        addresses = [
            f"tcp://{HOST}:{self._data[n]}" if n in self._data else f"tcp://10.{n >> 8}.{n & 255}.7:9100"
            for n in range(replicas)
        ]
        self.hellos = [hello(number, address) for number, address in enumerate(addresses)]
        self._processes: list[Any] = []
        self._server = self._start(serve, system, self._ports, self.hellos, self._keys)
        self._server.recv()
        self._replicas = self._start(beat, system, self._ports[1], self.hellos, self._keys)
        self._ear = make_socket(zmq.Context(), zmq.SUB, self._keys)
        self._ear.connect(f"tcp://{HOST}:{self._ports[2]}")
        self._ear.subscribe(b"")
        self._view = MembershipView()

    def measure(self, seconds: float) -> tuple[float, float]:
        """Share of a core, and bytes a second to the subscriber."""
        self._listen(self._settle)
        began, before = time.monotonic(), self._times()
        size = self._listen(seconds)
        used, took = self._times() - before, time.monotonic() - began
        return used / took, size / took

    def silence(self, number: int) -> float:
        """Have a replica say nothing more; seconds until the subscriber knows."""
        self._replicas.send(number)
        self._replicas.recv()
        return self._seconds_until_error(number)

    def kill(self, numbers: list[int]) -> list[float]:
        """Kill the processes of replicas that the head talks to; seconds until the subscriber knows, each."""
        pipes = {number: self._start(listen, self._data[number], self._keys) for number in numbers}
        victims = dict(zip(numbers, self._processes[-len(numbers) :], strict=True))
        for pipe in pipes.values():
            pipe.recv()
        self._server.send([(number, self.hellos[number].address) for number in numbers])
        self._server.recv()
        self._listen(self._settle)
        taken = []
        for number, victim in victims.items():
            victim.kill()
            taken.append(self._seconds_until_error(number))
        return taken

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._ear.close(linger=0)

    def _start(self, target: Callable[..., None], *args: Any) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(*args, theirs), daemon=True)
        process.start()
        self._processes.append(process)
        return ours

    def _times(self) -> float:
        self._server.send("times")
        return float(self._server.recv())

    def _listen(self, seconds: float) -> int:
        return sum(map(len, self._publications(seconds)))

    def _seconds_until_error(self, number: int) -> float:
        began = time.monotonic()
        for _ in self._publications(10.0):
            replica = self._view.replicas.get((0, number))
            if replica is not None and replica.state is ReplicaState.ERROR:
                return time.monotonic() - began
        raise AssertionError(f"the subscriber was not told of replica {number}")

    def _publications(self, seconds: float) -> Iterator[bytes]:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._ear.poll(left * 1e3):
                publication = self._ear.recv()
                if self.system in ("ours", "ours, encrypted"):
                    self._view.apply(decode_publication(publication))
                yield publication


def main() -> None:
    """Run the systems by turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small fleet, once, for three seconds each")
    parser.add_argument("--output", type=Path)
    parser.set_defaults(settle=SETTLE_SECONDS, victims=VICTIMS)
    args = parser.parse_args()
    from benchmarks.common import machine, spread, text, write  # here, for the other processes need no torch

    if args.quick:
        vars(args).update(QUICK)
    before = machine()
    shares: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    rates: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    silences: list[float] = []
    closings: list[float] = []
    for repeat in range(args.repeats):
        for system in SYSTEMS if repeat % 2 == 0 else SYSTEMS[::-1]:
            run = Run(system, args.replicas, args.settle, args.victims)
            try:
                share, rate = run.measure(args.seconds)
                shares[system].append(share * 100)
                rates[system].append(rate / 1e3)
                if system == "ours":
                    closings += run.kill(list(range(args.victims)))
                    silences += [run.silence(args.victims + number) for number in range(2)]
            finally:
                run.close()
    table = Table(title=f"{args.replicas} replicas, a heartbeat a second each; medians of {args.repeats}")
    for column in ("", "% of a core", "to ours", "kB/s to a subscriber", "to ours"):
        table.add_column(column, justify="right" if column else "left")
    for system in SYSTEMS:
        cost = [share / own for share, own in zip(shares[system], shares["ours"], strict=True)]
        size = [rate / own for rate, own in zip(rates[system], rates["ours"], strict=True)]
        table.add_row(
            system, text(spread(shares[system]), " %"), text(spread(cost)),
            text(spread(rates[system]), "", 1), text(spread(size)),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"noticed by silence (timeout {TIMEOUT_SECONDS:g} s): {text(spread(silences), ' s')}; "
        f"by connection: median {statistics.median(closings) * 1e3:.0f} ms, longest {max(closings) * 1e3:.0f} ms "
        f"of {len(closings)}"
    )
    if args.output:
        figures = {
            "replicas": args.replicas, "timeout_seconds": TIMEOUT_SECONDS, "percent_of_a_core": shares,
            "kilobytes_per_second": rates, "seconds_to_notice_silence": silences,
            "seconds_to_notice_a_closed_connection": closings,
        }  # fmt: skip
        write(args.output, before, figures)


if __name__ == "__main__":
    main()
