"""Running commands, saying what happens, and stopping with one clear line.

Everything else in this package goes through these few functions, so that a long step always shows a progress line and
a failed command shows its own last words instead of a traceback. Standard library only: the cluster must start before
any virtual environment exists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPORT_SECONDS = 20
Argument = str | Path | int


class ClusterError(Exception):
    """Something a person must put right; the message says what, and is all that is shown."""


def say(message: str) -> None:
    """Print one progress line."""
    print(f"cluster: {message}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a long step when it begins, report now and then that it continues, and say how long it took."""
    say(f"{what} …")
    began = time.monotonic()
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(REPORT_SECONDS):
            say(f"{what}: {time.monotonic() - began:.0f} s so far …")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()
    say(f"{what}: done in {time.monotonic() - began:.0f} s")


def run(
    *argv: Argument,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    log: Path | None = None,
) -> str:
    """Run a command to its end and return its standard output.

    With `log`, both its outputs go to the end of that file instead (a build talks too much for the screen).
    Raises ClusterError with the command and the last lines it printed when it fails.
    """
    command = [str(a) for a in argv]
    with (log or Path(os.devnull)).open("ab") as out:
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=env,
                input=stdin.encode() if stdin is not None else None,
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=out if log else subprocess.PIPE,
                stderr=out if log else subprocess.PIPE,
                check=False,
            )
        except FileNotFoundError as error:
            raise ClusterError(f"the command {command[0]!r} is not installed") from error
    if done.returncode:
        said = log.read_bytes() if log else (done.stdout or b"") + (done.stderr or b"")
        tail = "\n".join(said.decode(errors="replace").strip().splitlines()[-15:])
        where = f" (all of it: {log})" if log else ""
        raise ClusterError(f"`{' '.join(command)[:200]}` ended with {done.returncode}{where}:\n{tail}")
    return (done.stdout or b"").decode()


def succeeds(*argv: Argument) -> bool:
    """Whether a command can be run and exits with 0; its output is thrown away."""
    try:
        return subprocess.run([str(a) for a in argv], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def wait_until(what: str, seconds: float, ready: Callable[[], bool], hint: str = "") -> None:
    """Poll `ready` until it is true; connection errors count as "not yet". Raises ClusterError after `seconds`."""
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except (OSError, ValueError) as error:
            last = f" ({error})"
        time.sleep(0.2)
    raise ClusterError(f"{what} did not come up in {seconds:.0f} s{last}{'; ' + hint if hint else ''}")
