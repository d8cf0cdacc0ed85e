"""Imports large packages without garbage collection, which would take a third of the time and find nothing."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """No collection inside the context. What exists at its end, modules above all, is left out of later collections."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
