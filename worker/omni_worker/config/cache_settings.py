"""Parses the argument of --cache."""

import argparse
from typing import Any, get_args

import msgspec

from omni_worker.requests import MAX_CONSECUTIVE, MAX_TOLERANCE, CacheMode, CacheSettings

FORM = "give none, or skip[,tolerance=X][,maxConsecutive=N], like skip,tolerance=0.05"


def parse(text: str) -> CacheSettings:
    """The settings. Raises ArgumentTypeError, which says what to give instead."""
    mode, *options = text.split(",")
    values: dict[str, Any] = {"mode": mode}
    for option in options:
        name, _, value = option.partition("=")
        if name not in ("tolerance", "maxConsecutive") or name in values:
            raise argparse.ArgumentTypeError(f"{text!r}: {option!r} is no setting, or given twice; {FORM}")
        values["max_consecutive" if name == "maxConsecutive" else name] = value
    try:
        settings = msgspec.convert(values, CacheSettings, strict=False)
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}; {FORM}") from None
    if mode not in get_args(CacheMode) or (mode == "none" and options):
        raise argparse.ArgumentTypeError(f"{text!r} is no mode with such settings; {FORM}")
    if not 0 < settings.tolerance <= MAX_TOLERANCE:
        raise argparse.ArgumentTypeError(f"{text!r}: the tolerance must be above 0 and at most {MAX_TOLERANCE:g}")
    if not 1 <= settings.max_consecutive <= MAX_CONSECUTIVE:
        raise argparse.ArgumentTypeError(f"{text!r}: maxConsecutive must be from 1 to {MAX_CONSECUTIVE}")
    return settings
