"""Runs a command that ends when its parent ends: `python -m omni_operator.local.die_with_parent PARENT_PID COMMAND …`.

`omni up` starts every process through this module. If `omni up` is killed and cannot clean up, the kernel sends SIGTERM
to each of them. This works on Linux only; elsewhere the command simply runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for a SIGTERM when the parent ends, then replace this process with the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the call to prctl
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
