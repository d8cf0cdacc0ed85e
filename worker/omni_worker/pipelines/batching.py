"""Puts model calls of several requests into one, and takes the answer apart; trusts no batch before it is proven.

A call's key is derived by the same walk over its arguments that merges them, so calls of one key can always be put
together. Whether that gives the right answer is another matter: a dimension may be as long as the batch by accident.
So the first batch of a key runs together and alone, and only where the answers agree is the key batched from then on.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MAIN_ARGUMENTS = ("hidden_states", "sample", "x")
# Relative difference (root mean square) that a batched answer may have from the answer alone, by precision.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class Lists(Enum):
    """How lists as long as the batch are merged: one after another, or element by element."""

    JOINED = "joined"
    ELEMENTWISE = "elementwise"


@dataclass(frozen=True)
class Call:
    """A pending call of `target`, which is named `phase` among the pipeline's models."""

    phase: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def rows(self) -> int:
        """How long the batch dimension is: the first dimension of the main argument."""
        for value in (*(self.kwargs.get(name) for name in MAIN_ARGUMENTS), *self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.dim():
                return int(value.shape[0])
            if isinstance(value, list) and value and isinstance(value[0], Tensor):
                return len(value)
        return 1

    @cached_property
    def key(self) -> Hashable:
        """Equal for calls that `merge` can put together."""
        return self.phase, self.rows, _shape(self.args, self.rows), _shape(self.kwargs, self.rows)

    def run(self) -> Any:
        """The call as the pipeline made it."""
        return self.target(*self.args, **self.kwargs)


def _shape(value: Any, rows: int) -> Hashable:
    """What two values must share to be merged: structure, shapes beyond the batch, dtypes, all that is no tensor."""
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return "scalar", value.dtype
        return (tuple(value.shape[1:]) if value.shape[0] == rows else tuple(value.shape)), value.shape[0], value.dtype
    if isinstance(value, dict):
        return type(value), tuple((name, _shape(item, rows)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_shape(item, rows) for item in value)
    if value is None or isinstance(value, str | int | float | bool | torch.dtype | torch.device):
        return value
    return type(value), id(value)


class CannotMerge(Exception):
    """Two calls of one key hold different values where they would have to share one."""


def _merge(values: Sequence[Any], rows: int, lists: Lists) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        if first.dim() == 0:
            return torch.cat([value.expand(rows) for value in values])
        if first.shape[0] == rows:
            return torch.cat(list(values))
        if not all(value is first or torch.equal(value, first) for value in values[1:]):
            raise CannotMerge
        return first
    if isinstance(first, dict):
        return {name: _merge([value[name] for value in values], rows, lists) for name in first}
    if isinstance(first, list) and len(first) == rows and lists is Lists.JOINED:
        return [item for value in values for item in value]
    if isinstance(first, list | tuple):
        merged = [_merge(items, rows, lists) for items in zip(*values, strict=True)]
        return merged if isinstance(first, list) else tuple(merged)
    return first


def _split(value: Any, rows: int, count: int) -> list[Any]:
    if isinstance(value, Tensor):
        if value.dim() and value.shape[0] == rows * count:
            return list(value.split(rows))
        raise CannotMerge
    if isinstance(value, dict):  # diffusers' output objects are dictionaries too
        parts = {name: _split(item, rows, count) for name, item in value.items()}
        return [type(value)(**{name: part[i] for name, part in parts.items()}) for i in range(count)]
    if isinstance(value, list) and len(value) == rows * count:
        return [value[i * rows : (i + 1) * rows] for i in range(count)]
    if isinstance(value, list | tuple):
        parts_of = [_split(item, rows, count) for item in value]
        return [type(value)(part[i] for part in parts_of) for i in range(count)]
    return [value] * count


def run_merged(calls: Sequence[Call], lists: Lists = Lists.JOINED) -> list[Any]:
    """One model call for all of `calls`, which share a key; the answer of each. Raises CannotMerge."""
    first = calls[0]
    args = _merge([call.args for call in calls], first.rows, lists)
    kwargs = _merge([call.kwargs for call in calls], first.rows, lists)
    return _split(first.target(*args, **kwargs), first.rows, len(calls))


def agree(one: Any, other: Any) -> bool:
    """Whether two answers are the same but for rounding."""
    if isinstance(one, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return bool(torch.equal(one, other))
        error, size = (one - other).double().norm(), one.double().norm()
        return bool(error <= TOLERANCE.get(one.dtype, 0.0) * size) if torch.isfinite(size) else False
    if isinstance(one, dict):
        return all(agree(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)


class ProvenBatches:
    """Runs calls that share a key together where that is proven to be right, and alone where it is not.

    `verdicts` maps a key to the way its calls are merged, or to None where they run alone for ever.
    """

    def __init__(self) -> None:
        self.verdicts: dict[Hashable, Lists | None] = {}
        self.batched_calls = 0
        self.single_calls = 0

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answer of each of `calls`, in their order. Raises what the model raises."""
        if len(calls) > 1:
            key = calls[0].key
            if key not in self.verdicts:
                return self._prove(key, calls)
            if (lists := self.verdicts[key]) is not None:
                try:
                    answers = run_merged(calls, lists)
                except CannotMerge:
                    pass
                else:
                    self.batched_calls += len(calls)
                    return answers
        self.single_calls += len(calls)
        return [call.run() for call in calls]

    def _prove(self, key: Hashable, calls: Sequence[Call]) -> list[Any]:
        alone = [call.run() for call in calls]
        self.single_calls += len(calls)
        self.verdicts[key] = next((lists for lists in Lists if self._is_right(calls, lists, alone)), None)
        if self.verdicts[key] is None:
            log.warning("calls of %r give another answer together than alone: they will run alone", calls[0].phase)
        return alone

    @staticmethod
    def _is_right(calls: Sequence[Call], lists: Lists, alone: list[Any]) -> bool:
        try:
            return agree(alone, run_merged(calls, lists))
        except Exception as error:  # whatever a model says to a batch it cannot take
            log.debug("a batch of %r cannot run %s: %s", calls[0].phase, lists.value, error)
            return False
