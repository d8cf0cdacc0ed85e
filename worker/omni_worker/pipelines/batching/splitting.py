"""One call divided by its rows, for the ranks of a replica: guidance puts two rows or more into a request's own calls.

That the rows of a call do not see each other is no more certain than that two calls may be put together; so here too
the first call of a key is run whole and in pieces, and what was found is remembered.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, cat

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import map_tensors, object_fields, rebuild_mapping, rebuild_sequence


class CannotJoin(Exception):
    """The answers of the pieces cannot be put together."""


def split_rows(call: Call, count: int) -> list[Call]:
    """The call as `count` calls, each of some of its rows; tensors that are no rows go to all of them."""
    bounds = [call.rows * i // count for i in range(count + 1)]
    return [_piece(call, start, stop) for start, stop in pairwise(bounds)]


def _piece(call: Call, start: int, stop: int) -> Call:
    def take(value: Tensor) -> Tensor:
        return value[start:stop] if value.dim() and value.shape[0] == call.rows else value

    return replace(call, args=map_tensors(call.args, take), kwargs=map_tensors(call.kwargs, take))


def join_results(answers: Sequence[Any]) -> Any:
    """The answer of a call from those of its pieces. Raises CannotJoin."""
    first = answers[0]
    if isinstance(first, Tensor):
        if not first.dim():
            raise CannotJoin
        return cat(list(answers))
    if isinstance(first, dict):
        return rebuild_mapping(first, {name: join_results([answer[name] for answer in answers]) for name in first})
    if isinstance(first, list | tuple):
        return rebuild_sequence(first, [join_results(items) for items in zip(*answers, strict=True)])
    if object_fields(first) is not None:
        raise CannotJoin
    return first
