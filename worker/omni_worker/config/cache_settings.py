"""Parses the argument of --cache."""

import argparse

from omni_settings import cache
from omni_worker.requests import CacheSettings


def parse(text: str) -> CacheSettings:
    """The settings. Raises ArgumentTypeError, which says what to give instead."""
    try:
        return CacheSettings(**cache.parse(text).given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
