"""Runs a function of a test in several processes that are ranks of one group."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from omni_worker.parallel.ranks import Ranks


def start_ranks(module: str, size: int) -> list["subprocess.Popen[bytes]"]:
    """Start `size` processes, which run `scenarios(ranks)` of a module and write its pickled result to stdout."""
    store = os.memfd_create("store")
    program = f"from {__name__} import main; from {module} import scenarios; main(scenarios, {{}}, {size}, {store})"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program.format(rank)],
            pass_fds=(store,),
            stdout=subprocess.PIPE,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(size)
    ]
    os.close(store)
    return processes


def results_of_ranks(module: str, size: int) -> list[Any]:
    """What `scenarios(ranks)` of a module returns on each of `size` ranks."""
    processes = start_ranks(module, size)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * size
    return [pickle.loads(output) for output in outputs]


def main(scenarios: Callable[[Ranks], Any], rank: int, size: int, store: int) -> None:
    """What each of the processes runs."""
    ranks = Ranks.join(rank, size, f"/proc/self/fd/{store}")
    sys.stdout.buffer.write(pickle.dumps(scenarios(ranks)))
    sys.stdout.flush()
    ranks.close()
