"""Topologies of test manifests, and the flags on the command lines of their processes."""

import itertools
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.local import local_topology
from omni_operator.planning.topology.records import Process, Topology


def consecutive_ports(first: int = 20000) -> Callable[[int], int]:
    cursor = itertools.count(first)

    def take(count: int) -> int:
        ports = [next(cursor) for _ in range(max(count, 1))]
        return ports[0]

    return take


def flag(process: Process, name: str) -> str | None:
    """The value of a flag; "" if it has no value, None if it is absent."""
    for argument in process.arguments:
        key, _, value = argument.partition("=")
        if key == name:
            return value
    return None


def locally(manifest: dict[str, Any]) -> Topology:
    return local_topology(parse(manifest), 8000, consecutive_ports(), PurePath("/run/digits"))


PAINTER = {"name": "painter", "engine": "diffusion", "input": "hidden-states"}


ENCODER = {"name": "encoder", "engine": "autoregressive", "task": "encode"}


REWRITER = {"name": "rewriter", "engine": "autoregressive"}
