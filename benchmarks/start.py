"""How long the commands and the processes take to start, as multiples of `python -c "import torch"` of the same round.

Torch is most of what a process with a model imports, so that a multiple says how much we, diffusers and transformers
add to it. The rounds run all commands in turn; the median of the rounds is reported with its range.

- `omni --help` and `omni status` run to their end; `omni status` finds a pipeline that `omni up` runs and prints it
- head: from the start of `omni serve --omni-dp-size-local 0` until its API answers
- replica: from the start of `omni up` with one replica of the built-in model until it serves
- restart: from the SIGKILL of a replica until its head is ready again, with a second of pause; the fork server of its
  process has everything imported. The last row is the same after a SIGKILL of the fork server

    python -m benchmarks.start [--quick]
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import yaml
from benchmarks import common
from benchmarks.ports import free_ports
from rich.table import Table

OMNI = str(Path(sys.executable).with_name("omni"))
EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"
BASELINE = "import torch"
ROUNDS, QUICK_ROUNDS = 9, 1
MOST_SECONDS = 300


def main() -> None:
    """Measure, print a table, and write the figures."""
    args = common.parser(__doc__, "start").parse_args()
    before = common.machine()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as environment:
        ready = time.perf_counter() - began
        systems: dict[str, Callable[[], float]] = {
            BASELINE: lambda: seconds_of([sys.executable, "-c", BASELINE], environment),
            "omni --help": lambda: seconds_of([OMNI, "--help"], environment),
            "omni status": lambda: seconds_of([OMNI, "status"], environment),
            "head": lambda: head_seconds(environment),
            # The replica that all this asks was measured too, which is enough to see that it runs.
            "replica": (lambda: ready) if args.quick else replica_seconds,
            "restart": lambda: restart_seconds(environment, has_fork_server=True),
            "restart without a fork server": lambda: restart_seconds(environment, has_fork_server=False),
        }
        rounds = QUICK_ROUNDS if args.quick else ROUNDS
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(rounds):
            for name, measure in systems.items():
                seconds[name].append(measure())
    figures = {
        name: common.spread([own / base for own, base in zip(taken, seconds[BASELINE], strict=True)])
        | {"seconds": statistics.median(taken)}
        for name, taken in seconds.items()
    }
    table = Table("what", "multiple of import torch", "seconds here")
    for name, one in figures.items():
        table.add_row(name, common.text(one), f"{one['seconds']:.2f}")
    common.console.print(table)
    common.write(args.output, before, {"rounds": rounds, "systems": figures})


def seconds_of(command: list[str], environment: dict[str, str]) -> float:
    """The time that a command takes to its end."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def head_seconds(environment: dict[str, str]) -> float:
    """The time from the start of a head without replicas until its API answers."""
    began = time.perf_counter()
    with serving(environment, "--omni-dp-size-local=0") as (_, url):
        wait_until(lambda: answers(f"{url}/startupz"))
        return time.perf_counter() - began


def restart_seconds(environment: dict[str, str], has_fork_server: bool) -> float:
    """The time from the death of a head's only replica until the head is ready again."""
    with serving(environment, f"--omni-replica-port={free_ports(1)[0]}") as (head, url):
        wait_until(lambda: answers(f"{url}/readyz"))
        (fork_server,) = children(head)
        (replica,) = children(fork_server)
        began = time.perf_counter()
        os.kill(replica, signal.SIGKILL)
        if not has_fork_server:
            os.kill(fork_server, signal.SIGKILL)
        wait_until(lambda: not answers(f"{url}/readyz"))
        wait_until(lambda: answers(f"{url}/readyz"))
        return time.perf_counter() - began


@contextlib.contextmanager
def serving(environment: dict[str, str], *flags: str) -> Iterator[tuple[int, str]]:
    """Run a head; yields its process id and the address of its API at once."""
    api, master, router, pub = map(str, free_ports(4))
    command = [OMNI, "serve", "builtin://digits", f"--port={api}", "--host=127.0.0.1"]
    command += ["--omni-master-address=127.0.0.1", f"--omni-master-port={master}"]
    command += [f"--omni-coordinator-port={router}", f"--omni-coordinator-pub-port={pub}", *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid, f"http://127.0.0.1:{api}"
        finally:
            process.terminate()


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(is_so: Callable[[], bool]) -> None:
    began = time.perf_counter()
    while not is_so():
        assert time.perf_counter() - began < MOST_SECONDS, "it takes too long"
        time.sleep(0.01)  # what the measurement may be too long


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, verify=False).is_success  # loading certificates would take long
    return False


def replica_seconds() -> float:
    """The time from the start of `omni up` until its pipeline serves."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)):
        return time.perf_counter() - began


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """Run `omni up` with one replica of the built-in model; yields the environment of its user once it serves."""
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["replicas"] = 1
    (folder / "digits.yaml").write_text(yaml.safe_dump(manifest))
    environment = {**os.environ, "XDG_STATE_HOME": str(folder), "HOME": str(folder)}
    command = [OMNI, "up", str(folder / "digits.yaml"), "--port=0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "omni up ended"
            yield environment
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
