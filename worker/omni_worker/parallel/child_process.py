"""Ends a child process with its parent: the parent has the other end of the child's stdin, which closes with it."""

import os
import threading


def end_with_parent() -> None:
    """End this process as soon as its stdin closes. Read everything else from stdin before."""
    threading.Thread(target=_exit_at_end_of_stdin, name="parent", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
