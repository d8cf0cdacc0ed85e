"""What more replicas give, and what HTTP costs: a real head before real and before sleeping replicas.

Sleeping replicas (a step takes a fixed time and no processor) show what routing, messages and HTTP cost a fleet: 1, 4,
16 and 64 of them under twice as many requests as there are replicas. Real ones share this machine's cores with the head
and with the clients, so each is held to a core of its own, and what they give is compared with what there is: the
efficiency is the requests a second of N replicas, divided by N times those of one.

HTTP: one request of 32x32 pixels at a time, through head and replica, and the same through an engine in this process,
in turn. With a replica whose step takes no time the difference is all that serving costs. With one whose steps sleep,
head and client wait as long as for a model, and find the machine as they do then: what that alone does to a processor's
caches is measured by a fixed piece of Python code, right away and after pauses.

    python -m benchmarks.scaling [--quick]
"""

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from functools import partial
from typing import Any

from benchmarks import sleeping
from benchmarks.common import console, machine, parser, quantile, settle, start, write
from benchmarks.ports import free_ports
from rich.table import Table

from omni_worker.config import model_source
from omni_worker.config.records import EngineConfig
from omni_worker.engine.build import build_engine
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.scheduler import Finished, SchedulerEvent, SchedulerRequest, StepScheduler
from omni_worker.requests import GenerationParams

SLEEPING = (1, 4, 16, 64)
PER_PROCESS = 16
STEPS, STEP_SECONDS = 10, 0.1
REAL = (1, 2)
REAL_STEPS = 20
START_SECONDS = 120.0
PAUSE_SECONDS = 0.015
PAUSES = (0.0, 0.005, PAUSE_SECONDS, 5 * PAUSE_SECONDS)


class Fleet:
    """A head, and processes that join it; all end with it."""

    def __init__(self, head_core: int | None = None) -> None:
        self.port, self.master, router, pub = free_ports(4)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start(
            "omni_worker.commands.cli", "serve", sleeping.MODEL, "--omni-dp-size-local", "0", "--host", "127.0.0.1",
            "--port", self.port, "--omni-master-address", "127.0.0.1", "--omni-master-port", self.master,
            "--omni-coordinator-port", router, "--omni-coordinator-pub-port", pub, "--log-level", "error",
            core=head_core,
        )  # fmt: skip

    def start(self, *words: Any, core: int | None = None) -> None:
        """Start a module with these arguments, on one core or on any."""
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        command = [*pinned, sys.executable, "-m", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment))

    def add_real(self, core: int) -> None:
        """A replica of the built-in model, on one core."""
        port, data = free_ports(2)
        self.start(
            "omni_worker.commands.cli", "serve", sleeping.MODEL, "--headless", "--host", "127.0.0.1", "--port", port,
            "--omni-master-address", "127.0.0.1", "--omni-master-port", self.master, "--omni-replica-port", data,
            "--log-level", "error", core=core,
        )  # fmt: skip

    def add_sleeping(self, count: int, seconds: float) -> None:
        """Sleeping replicas, PER_PROCESS in each process."""
        data = 20_000 + os.getpid() % 10_000
        for first in range(0, count, PER_PROCESS):
            self.start(
                "benchmarks.sleeping", "--master-port", self.master, "--data-port", data + first,
                "--count", min(PER_PROCESS, count - first), "--step-seconds", seconds,
            )  # fmt: skip

    def wait(self, count: int) -> None:
        """Until so many replicas are up. Raises TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                replicas = get(self.port, "/omni/replicas")["replicas"]
                if sum(one["state"] == "UP" for one in replicas) == count:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{count} replicas were not up within {START_SECONDS:g} s")

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


@contextlib.contextmanager
def fleet(**kwargs: Any) -> Iterator[Fleet]:
    """A fleet that is closed in the end."""
    made = Fleet(**kwargs)
    try:
        yield made
    finally:
        made.close()


def get(port: int, path: str) -> Any:
    """What a GET answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def draw(self, steps: int, seed: int = 0) -> None:
        """One picture. Raises RuntimeError where there is none."""
        body = json.dumps({"prompt": "a red three", "size": "32x32", "seed": seed, "num_inference_steps": steps})
        self._connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content.decode())


def throughput(port: int, clients: int, steps: int, seconds: float) -> float:
    """Requests a second that `clients` get who ask again as soon as they are answered, after a second of that."""
    stop, counted, lock = threading.Event(), 0, threading.Lock()
    measuring = threading.Event()

    def ask(number: int) -> None:
        nonlocal counted
        client = Client(port)
        while not stop.is_set():
            client.draw(steps, number)
            if measuring.is_set():
                with lock:
                    counted += 1

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, number) for number in range(clients)]
        time.sleep(max(1.0, seconds / 4))
        measuring.set()
        began = time.perf_counter()
        time.sleep(seconds)
        measuring.clear()
        took = time.perf_counter() - began
        stop.set()
        for one in asking:
            one.result()
    return counted / took


def scale_sleeping(seconds: float) -> dict[str, Any]:
    """Requests a second, and the efficiency, of sleeping replicas."""
    rates = {}
    for count in SLEEPING:
        with fleet() as made:
            made.add_sleeping(count, STEP_SECONDS)
            made.wait(count)
            rates[count] = throughput(made.port, 2 * count, STEPS, seconds)
    return efficiencies(rates)


def scale_real(seconds: float) -> dict[str, Any]:
    """Requests a second, and the efficiency, of real replicas, a core for each."""
    rates = {}
    cores = sorted(os.sched_getaffinity(0))
    for count in REAL:
        with fleet() as made:
            for number in range(count):
                made.add_real(cores[number % len(cores)])
            made.wait(count)
            throughput(made.port, 4 * count, REAL_STEPS, 2.0)
            rates[count] = throughput(made.port, 4 * count, REAL_STEPS, seconds)
    return efficiencies(rates)


def efficiencies(rates: dict[int, float]) -> dict[str, Any]:
    """For the JSON."""
    return {str(count): {"per_second": rate, "efficiency": rate / count / rates[1]} for count, rate in rates.items()}


class Direct:
    """An engine in this process, asked for one request at a time."""

    def __init__(self, build: Callable[[Callable[[SchedulerEvent], None]], Engine]) -> None:
        self._ended = threading.Event()
        self._number = 0
        self._engine = build(self._on_event)
        self._engine.start()

    def draw(self, steps: int) -> None:
        """One picture."""
        self._ended.clear()
        self._number += 1
        params = GenerationParams(prompt="a red three", width=32, height=32, steps=steps)
        self._engine.add(SchedulerRequest(str(self._number), params))
        self._ended.wait()

    def _on_event(self, event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            self._ended.set()


def sleeping_engine(seconds: float, on_event: Callable[[SchedulerEvent], None]) -> Engine:
    """One whose steps take a fixed time."""
    return Engine(StepScheduler(1), UniProcExecutor(sleeping.SleepingRunner(seconds)), on_event)


def real_engine(on_event: Callable[[SchedulerEvent], None]) -> Engine:
    """One with the built-in model, as a replica has it."""
    config = EngineConfig(None, 32, 256, True, "fifo")
    return build_engine(config, model_source.parse(sleeping.MODEL), on_event, lambda error: None)[0]


def http_overhead(count: int, step_seconds: float | None) -> dict[str, Any]:
    """Milliseconds of a request through head and replica, and through an engine in this process, in turn; where no
    time for a step is given, the model takes what it takes."""
    steps = 1 if step_seconds == 0.0 else 4
    with fleet() as made:
        if step_seconds is None:
            made.add_real(sorted(os.sched_getaffinity(0))[-1])
        else:
            made.add_sleeping(1, step_seconds)
        made.wait(1)
        engine = real_engine if step_seconds is None else partial(sleeping_engine, step_seconds)
        client, direct = Client(made.port), Direct(engine)
        times: dict[str, list[float]] = {"http": [], "direct": []}
        settle()
        for number in range(count + count // 4):
            for name, draw in (("http", client.draw), ("direct", direct.draw)):
                began = time.perf_counter()
                draw(steps)
                if number >= count // 4:
                    times[name].append((time.perf_counter() - began) * 1e3)
    found = {name: {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99)} for name, values in times.items()}
    found["overhead"] = {"p50": found["http"]["p50"] - found["direct"]["p50"]}
    return found


def after_pauses(count: int) -> dict[str, float]:
    """Milliseconds of the same work in Python, by the milliseconds of sleep before it."""
    headers = "".join(f"Header-{number}: value\r\n" for number in range(30))
    body = json.dumps([{"number": number, "text": str(number) * 5} for number in range(60)])
    found = {}
    for pause in PAUSES:
        times = []
        for _ in range(count):
            time.sleep(pause)
            began = time.perf_counter()
            HeaderParser().parsestr(headers)
            json.loads(body)
            parser(None, "nothing").parse_args([])
            times.append((time.perf_counter() - began) * 1e3)
        found[f"{pause * 1e3:g}"] = quantile(times, 0.5)
    return found


def main() -> None:
    """Measure, and print the tables."""
    args: argparse.Namespace = parser(__doc__, "scaling").parse_args()
    args.core = -1
    start(args)
    before, seconds = machine(), 3.0 if args.quick else 15.0
    figures = {
        "sleeping": scale_sleeping(seconds),
        "real": scale_real(seconds),
        "http_ms": {
            name: http_overhead(40 if args.quick else 400, step_seconds)
            for name, step_seconds in (("sleeping", 0.0), ("pausing", PAUSE_SECONDS), ("real", None))
        },
        "python_ms_after_pauses_of_ms": after_pauses(20 if args.quick else 200),
    }
    table = Table(title="requests a second, and efficiency: those of one replica, times how many there are, are 1")
    for name in ("replicas", "number", "requests/s", "efficiency"):
        table.add_column(name, justify="right")
    for kind in ("sleeping", "real"):
        for count, found in figures[kind].items():
            table.add_row(kind, count, f"{found['per_second']:.2f}", f"{found['efficiency']:.3f}")
    console.print(table)
    table = Table(title="one request of 32x32 pixels at a time, in milliseconds")
    for name in ("replica", "through HTTP", "direct", "HTTP costs"):
        table.add_column(name, justify="right")
    for kind, found in figures["http_ms"].items():
        table.add_row(kind, *(f"{found[name]['p50']:.2f}" for name in ("http", "direct", "overhead")))
    console.print(table)
    console.print(
        "the same Python code, in milliseconds, after so many of sleep:", figures["python_ms_after_pauses_of_ms"]
    )
    write(args.output, before, figures)


if __name__ == "__main__":
    main()
