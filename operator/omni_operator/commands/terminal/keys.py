"""Reads single key presses from the terminal."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager


class KeyReader:
    """Waits for keys on standard input. If that is no terminal, it only waits."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def wait_for_quit(self, seconds: float) -> bool:
        """Whether q was pressed, or the input ended, within `seconds`. Any other key ends the wait early."""
        if not self._is_terminal:
            time.sleep(seconds)
            return False
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if not readable:
            return False
        typed = os.read(sys.stdin.fileno(), 64)
        return not typed or b"q" in typed.lower()


@contextmanager
def single_keys() -> Iterator[KeyReader]:
    """Switches the terminal to single keys, and restores its mode at the end."""
    if not sys.stdin.isatty():
        yield KeyReader(is_terminal=False)
        return
    mode = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield KeyReader(is_terminal=True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)
