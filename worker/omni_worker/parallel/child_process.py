"""What every child process with a model does at its start: it ends with its parent, and imports without pauses.

The parent has the other end of the child's stdin, which closes with it.
"""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator


def end_with_parent() -> None:
    """End this process as soon as its stdin closes. Read everything else from stdin before."""
    threading.Thread(target=_exit_at_end_of_stdin, name="parent", daemon=True).start()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import torch and diffusers without garbage collection, which would take a seventh of the time and find nothing.

    The modules are also left out of every later collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
