"""The command `omni`, the worker's subcommands, and the two kinds of process that `omni serve` runs: head, headless.

The commands compose a process from the other packages. No other package imports this one.
"""

import os
import signal

if os.getpid() == 1:
    # The kernel drops signals without a handler for process 1 of a container: a pod that is deleted while it starts
    # would wait for its whole grace period. So this is the first thing that `omni` does, before it imports anything
    # else. The handler does what the kernel does for any other process. Commands that drain replace it.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
