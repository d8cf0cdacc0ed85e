"""What the processes of test_fork_server run. The first argument says what they do; they print JSON."""

import atexit
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> int:
    match sys.argv[1]:
        case "describe":
            print(json.dumps(describe()))
        case "end":
            return int(sys.argv[2])
        case "raise":
            raise RuntimeError("as it is wanted")
        case "count":
            print(*(os.fstat(int(file)).st_size for file in sys.argv[2:]), Path.cwd(), flush=True)
            print(sum(1 for _ in sys.stdin))
            time.sleep(600)
        case "wait":
            print(json.dumps({"pid": os.getpid()}), flush=True)
            time.sleep(600)
        case "leave work":
            atexit.register(print, json.dumps("atexit"))
            threading.Thread(target=lambda: time.sleep(0.2) or print(json.dumps("thread"))).start()
    return 0


def describe() -> dict[str, object]:
    import numpy as np
    import torch

    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "argv": sys.argv[1:],
        "is_forked": sys.orig_argv[1:3] == ["-m", "omni_worker.parallel.fork_server"],
        "environment": dict(os.environ),
        "stdin": sys.stdin.read(),
        "path": sys.path,
        "threads": torch.get_num_threads(),
        "random": [random.random(), np.random.rand()],
        "sum": torch.ones(1 << 20).sum().item(),
        "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "files": len(list(Path("/proc/self/fd").iterdir())),
    }


if __name__ == "__main__":
    sys.exit(main())
