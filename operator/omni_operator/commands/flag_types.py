"""What flags are made of: converters for argparse, each with what to give in place of what it cannot read."""

import argparse


def seconds(text: str) -> float:
    """A time."""
    return _above_zero(text, " is not a time; give seconds, more than 0")


def positive(text: str) -> float:
    """A number."""
    return _above_zero(text, ": expected a number more than 0")


def _above_zero(text: str, complaint: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}{complaint}")
    return value
