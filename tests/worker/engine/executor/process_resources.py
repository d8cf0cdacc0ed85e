"""What a process holds that could be left behind."""

import gc
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

OWN = Path("/proc/self")


def held():
    """This process's descriptors by what they are, its children and threads, and the names in shared memory."""
    gc.collect()
    threads = [thread.name for thread in threading.enumerate()]
    return Counter(descriptors()), Counter(children()), Counter(threads), Counter(segments())


def left_behind(before):
    """What this process holds and did not hold before. What ended meanwhile, from tests before, does not matter."""
    return [list((now - then).elements()) for now, then in zip(held(), before, strict=True) if now - then]


def descriptors():
    """What each open descriptor is, without the numbers."""
    kinds = []
    for descriptor in (OWN / "fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            kinds.append(str(descriptor.readlink()).partition(":")[0])
    return sorted(kinds)


def children():
    """The ids of this process's children, zombies too."""
    return sorted(pid for task in (OWN / "task").iterdir() for pid in (task / "children").read_text().split())


def segments():
    """The names in /dev/shm."""
    return sorted(path.name for path in Path("/dev/shm").iterdir())


def mappings(name):
    """How many of this process's mappings are of a file of that name."""
    return sum(name in line for line in (OWN / "maps").read_text().splitlines())


def is_gone(pid):
    """Whether a process has ended; a zombie has."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
