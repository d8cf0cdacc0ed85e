"""Runs a command that ends when its parent does: `python -m omni_operator.local.die_with_parent PARENT COMMAND …`.

`omni up` starts every process through it, so that none survives when `omni up` itself is killed and cannot clean up.
The kernel then sends SIGTERM. Linux only; elsewhere the command just runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it went before the call above
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
