"""Command lines of `omni serve` as configurations."""

import argparse

from omni_worker.config.flags import add_arguments
from omni_worker.config.records import ServeConfig
from omni_worker.config.serve_config import from_arguments


def parse(*flags: str, model: str = "builtin://digits") -> ServeConfig:
    """The configuration of `omni serve MODEL FLAGS…`. Raises UsageError, or SystemExit from argparse."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args([model, *flags]))
