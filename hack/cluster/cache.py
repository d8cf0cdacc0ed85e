"""What outlives a cluster: one folder of built things, and the locks by which commands take turns at them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.cluster.shell import say

CACHE = Path(os.environ.get("OMNI_CLUSTER_CACHE") or Path.home() / ".cache/omni-cluster")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of this name; another process that holds it is waited for. Killed processes hold none."""
    (CACHE / "locks").mkdir(parents=True, exist_ok=True)
    with (CACHE / "locks" / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that works on {name} …")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
