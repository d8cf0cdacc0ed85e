"""Splits one call by its rows, so that the ranks of a replica share it. Guidance gives a request's call several rows.

It is no more certain that the rows of a call are independent than that two calls can be merged. So the first call of a
key runs both complete and split, and the outcome is remembered (`distribution`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, cat

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import parts, rebuild


class CannotJoin(Exception):
    """The results of the parts cannot be joined."""


def split_rows(call: Call, count: int) -> list[Call]:
    """The call as `count` calls with some of its rows each. Tensors without the batch dimension go to all of them."""
    bounds = [call.rows * i // count for i in range(count + 1)]
    return [_rows_of(call, start, stop) for start, stop in pairwise(bounds)]


def _rows_of(call: Call, start: int, stop: int) -> Call:
    def take(value: Tensor) -> Tensor:
        return value[start:stop] if value.dim() and value.shape[0] == call.rows else value

    return call.map_tensors(take)


def join_results(results: Sequence[Any]) -> Any:
    """The result of a call, from the results of its parts. Raises CannotJoin."""
    first = results[0]
    if isinstance(first, Tensor):
        if not first.dim():
            raise CannotJoin
        return cat(list(results))
    items = [parts(result) for result in results]
    if items[0] is None:
        return first
    if any(one is None or one.keys() != items[0].keys() for one in items):
        raise CannotJoin
    return rebuild(first, {name: join_results([one[name] for one in items if one is not None]) for name in items[0]})
