"""Converters for argparse. Each rejects a bad value with a message that says what to give instead.

`omni serve` uses the functions. Commands of other packages, which must not import this one, use NAMED_TYPES by name.
"""

import argparse
from collections.abc import Callable


def port(text: str) -> int:
    """A TCP port, 1 to 65535."""
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def above_zero(complaint: str) -> Callable[[str], float]:
    """A converter for finite numbers above 0. Its error is the text in quotes, followed by `complaint`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r}{complaint}")
        return value

    return convert


seconds = above_zero(" is not a time: give seconds above 0")
positive = above_zero(": give a number above 0")


def at_least(minimum: int) -> Callable[[str], int]:
    """A converter for whole numbers from `minimum`."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {minimum}")
        return int(text)

    return convert


def between(minimum: int, maximum: int) -> Callable[[str], int]:
    """A converter for whole numbers from `minimum` to `maximum`."""

    def convert(text: str) -> int:
        if not text.isdecimal() or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {minimum} to {maximum}")
        return int(text)

    return convert


# Converters by the name under which `cli.CommandParser` registers them: `add_argument(…, type="seconds")`. The commands
# that use them word these two errors differently from `omni serve`.
def count(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; give a whole number, 1 or more")
    return int(text)


NAMED_TYPES: dict[str, Callable[[str], float]] = {
    "count": count,
    "seconds": above_zero(" is not a time; give seconds, more than 0"),
    "positive": above_zero(": expected a number more than 0"),
}
