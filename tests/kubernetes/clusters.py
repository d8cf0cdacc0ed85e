"""Starts each cluster of the tests once per run, whichever of pytest's processes needs it first.

The processes of a run share a folder, which tests/conftest.py makes and names in the environment. It has a file for
each cluster that was started, so that the end of the run can stop them.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RUN_FOLDER = "OMNI_TEST_RUN_FOLDER"
HACK_CLUSTER = [sys.executable, str(Path(__file__).parents[2] / "hack/cluster")]


def start_once(instance: str, start: Callable[[], None]) -> str:
    """The kubeconfig of the cluster that OMNI_KUBECONFIG names, and otherwise of an instance of our own.

    `start` starts the instance if no process of this run has done so yet.
    """
    if given := os.environ.get("OMNI_KUBECONFIG"):
        return given
    started = _folder() / f"{instance}.started"
    with held(f"{instance}.starting", alone=True):
        if not started.exists() or started.read_text() != "completely":
            started.touch()
            start()
            started.write_text("completely")
    command = [*HACK_CLUSTER, "kubeconfig", f"--name={instance}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def stop_all() -> None:
    """Stop every cluster that this run has started."""
    for file in _folder().glob("*.started"):
        subprocess.run([*HACK_CLUSTER, "down", f"--name={file.stem}"], check=True)


@contextmanager
def held(name: str, alone: bool) -> Iterator[None]:
    """Hold a lock of this run: `alone`, or together with all others that do not want to be alone.

    One that waits to be alone holds a second lock, the gate, so that no others come meanwhile.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (_folder() / name).open("a") as file:
        with (_folder() / f"{name}.gate").open("a") as gate:
            fcntl.flock(gate, kind)
            fcntl.flock(file, kind)
        yield


def _folder() -> Path:
    return Path(os.environ[RUN_FOLDER])
