"""What flags are made of: converters for argparse, each with what to give in place of what it cannot read."""

import argparse
from collections.abc import Callable


def port(text: str) -> int:
    """A port."""
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def seconds(text: str) -> float:
    """A time."""
    return _above_zero(text, " is not a time: give seconds above 0")


def positive(text: str) -> float:
    """A number."""
    return _above_zero(text, ": give a number above 0")


def _above_zero(text: str, complaint: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}{complaint}")
    return value


def at_least(bound: int) -> Callable[[str], int]:
    """A converter of counts."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {bound}")
        return int(text)

    return count
