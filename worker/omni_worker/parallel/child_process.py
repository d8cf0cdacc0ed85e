"""A child process that never outlives its parent: the parent holds the other end of its stdin, which closes with it."""

import os
import threading


def end_with_parent() -> None:
    """End this process as soon as its stdin closes. Whatever else is on stdin must have been read before."""
    threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
