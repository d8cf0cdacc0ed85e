"""Several calls as one: their arguments put together, and the answer taken apart again.

How that is done right differs from model to model, and cannot be read off the tensors: a `Plan` is one way to do it.
`plans` gives the ways worth trying for some calls, the likely ones first; `proving` finds out which one is right.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import flat_values, object_fields, rebuild_mapping, rebuild_sequence


class CannotMerge(Exception):
    """This plan does not fit these calls, or their answer."""


class MergeMode(Enum):
    """What becomes of one tensor argument."""

    JOIN = auto()  # one call's rows after another's
    JOIN_SECOND = auto()  # the same, where the rows are the second dimension
    SHARE = auto()  # the same for all, so taken once
    EXPAND = auto()  # one number, or one row, for all rows of a call
    NONE = auto()  # there is none: it stands in a list that is joined, or the plan does not fit


@dataclass(frozen=True)
class MergePlan:
    """A way to merge.

    treatments: of each of a call's leaves, in order
    joins_lists: lists as long as a call's rows are put one after another, and not merged element by element
    by_rows: the first rows of all calls come first, then all second rows: for models that cut their batch into halves
    """

    treatments: tuple[MergeMode, ...]
    joins_lists: bool
    by_rows: bool = False

    def shared_rows(self, call: Call) -> list[int]:
        """The leaves that are shared though they are as long as the batch: calls must be equal in them."""
        return [
            i
            for i, (leaf, treatment) in enumerate(zip(call.leaves, self.treatments, strict=True))
            if treatment is MergeMode.SHARE and leaf.value.shape[0] == call.rows
        ]


def candidate_plans(calls: Sequence[Call], equal: Sequence[bool]) -> Iterator[MergePlan]:
    """The ways to merge `calls`; `equal` says which of their leaves are the same in all."""
    rows = calls[0].rows
    ways = _ways(calls[0], equal)
    has_lists = any(isinstance(item, list) and len(item) == rows for item in _lists((calls[0].args, calls[0].kwargs)))
    for way in ways:
        for by_rows in (False, True) if rows > 1 else (False,):
            for joins_lists in (True, False) if has_lists else (True,):
                yield MergePlan(way, joins_lists, by_rows)
    if not has_lists:  # an answer may be a list as long as the batch by accident
        yield MergePlan(ways[0], joins_lists=False)


def _ways(call: Call, equal: Sequence[bool]) -> list[tuple[MergeMode, ...]]:
    """What may become of each leaf: rows are joined; then, one leaf at a time and all of them, they are shared where
    they are the same in all calls, for they may look like rows by accident; then one is joined at its second dimension.
    """
    lengths = [leaf.value.shape[0] if leaf.value.dim() else 0 for leaf in call.leaves]
    joined = [_treatment(length, call.rows, is_equal) for length, is_equal in zip(lengths, equal, strict=True)]
    doubtful = [i for i, length in enumerate(lengths) if equal[i] and length == call.rows]
    sets = [[], *([i] for i in doubtful), doubtful] if len(doubtful) > 1 else [[], doubtful]
    ways = [tuple(MergeMode.SHARE if i in shared else way for i, way in enumerate(joined)) for shared in sets]
    second = [leaf.value.dim() > 2 and leaf.value.shape[1] == call.rows for leaf in call.leaves]
    for i in [i for i, is_likely in enumerate(second) if is_likely and not equal[i]]:
        ways.append((*joined[:i], MergeMode.JOIN_SECOND, *joined[i + 1 :]))
    return list(dict.fromkeys(ways))


def _treatment(length: int, rows: int, is_equal: bool) -> MergeMode:
    if length == 0:
        return MergeMode.EXPAND
    if is_equal and length != rows:
        return MergeMode.SHARE
    if length % rows == 0:
        return MergeMode.JOIN
    return MergeMode.EXPAND if length == 1 else MergeMode.NONE


def _lists(value: Any) -> Iterator[list[Any] | tuple[Any, ...]]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _lists(item)
    elif isinstance(value, list | tuple):
        yield value
        for item in value:
            yield from _lists(item)


def run_merged(calls: Sequence[Call], plan: MergePlan, lengths: Sequence[int] = ()) -> list[Any]:
    """One model call for all of `calls`, whose keys are equal; the answer of each. Raises CannotMerge.

    `lengths`: those that the calls' sequences had before a collator evened them out.
    """
    first = calls[0]
    merge = _Merge(plan, first.rows)
    args = merge.values([call.args for call in calls])
    kwargs = merge.values([call.kwargs for call in calls])
    with first.context.active(runs_model=True):
        answer = first.target(*args, **kwargs)
    split = _Split(plan, first.rows, len(calls))
    answers = [split.part(answer, i) for i in range(len(calls))]
    if first.collator and first.collator.cuts_answer and lengths:
        return [_cut(one, first.collator, length, max(lengths)) for one, length in zip(answers, lengths, strict=True)]
    return answers


def pad_to_common_length(calls: Sequence[Call]) -> tuple[Sequence[Call], Sequence[int]]:
    """The calls with sequences of one length, and their own lengths; as they are, and (), where they need nothing."""
    collator = calls[0].collator
    if collator is None or not collator.padded:
        return calls, ()
    lengths = [collator.length(call.leaves) for call in calls]
    masked = {collator.mask is not None and call.kwargs.get(collator.mask) is not None for call in calls}
    if len(set(lengths)) == 1 and len(masked) == 1:
        return calls, ()
    longest = max(lengths)
    return [replace(call, kwargs=collator.even_out(call.kwargs, longest)) for call in calls], lengths


class _Merge:
    """Walks the same place of several calls at once. Leaves are counted, to know whose treatment is next."""

    def __init__(self, plan: MergePlan, rows: int) -> None:
        self._plan = plan
        self._rows = rows
        self._next = 0

    def values(self, values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            treatment = self._plan.treatments[self._next]
            self._next += 1
            return self._tensors(values, treatment)
        if isinstance(first, dict):
            return {name: self.values([value[name] for value in values]) for name in first}
        if isinstance(first, list) and len(first) == self._rows and self._plan.joins_lists:
            self._next += sum(isinstance(item, Tensor) for item in flat_values(first))
            return self._joined(values)
        if isinstance(first, list | tuple):
            return rebuild_sequence(first, [self.values(items) for items in zip(*values, strict=True)])
        return first

    def _joined(self, values: Sequence[list[Any]]) -> list[Any]:
        if self._plan.by_rows:
            return [item for row in zip(*values, strict=True) for item in row]
        return [item for value in values for item in value]

    def _tensors(self, values: Sequence[Tensor], treatment: MergeMode) -> Tensor:
        if treatment is MergeMode.NONE:
            raise CannotMerge
        if treatment is MergeMode.SHARE:
            return values[0]
        if treatment is MergeMode.EXPAND:
            values = [value.reshape(1, *value.shape[1:]).expand(self._rows, *value.shape[1:]) for value in values]
        if treatment is MergeMode.JOIN_SECOND:
            return self._concatenated([value.transpose(0, 1) for value in values]).transpose(0, 1)
        return self._concatenated(values)

    def _concatenated(self, values: Sequence[Tensor]) -> Tensor:
        if not self._plan.by_rows:
            return torch.cat(list(values))
        return torch.stack([value.unflatten(0, (self._rows, -1)) for value in values], dim=1).flatten(0, 2)


class _Split:
    """Takes one call's part out of a merged answer."""

    def __init__(self, plan: MergePlan, rows: int, count: int) -> None:
        self._plan = plan
        self._rows = rows
        self._count = count

    def part(self, value: Any, i: int) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, i)
        if isinstance(value, dict):
            return rebuild_mapping(value, {name: self.part(item, i) for name, item in value.items()})
        if isinstance(value, list) and len(value) == self._rows * self._count and self._plan.joins_lists:
            return value[i :: self._count] if self._plan.by_rows else value[i * self._rows : (i + 1) * self._rows]
        if isinstance(value, list | tuple):
            return rebuild_sequence(value, [self.part(item, i) for item in value])
        fields = object_fields(value)
        if fields is None:
            return value
        part = copy.copy(value)
        vars(part).update({name: self.part(item, i) for name, item in fields.items()})
        return part

    def _tensor(self, value: Tensor, i: int) -> Tensor:
        if value.dim() == 0:
            return value
        if value.shape[0] % (self._rows * self._count):
            raise CannotMerge
        if self._plan.by_rows:
            return value.unflatten(0, (self._rows, self._count, -1))[:, i].flatten(0, 1)
        length = value.shape[0] // self._count
        return value[i * length : (i + 1) * length]


def _cut(value: Any, collator: Any, length: int, padded_length: int) -> Any:
    if isinstance(value, Tensor):
        return collator.cut(value, length, padded_length)
    if isinstance(value, dict):
        return rebuild_mapping(
            value, {name: _cut(item, collator, length, padded_length) for name, item in value.items()}
        )
    if isinstance(value, list | tuple):
        return rebuild_sequence(value, [_cut(item, collator, length, padded_length) for item in value])
    if (fields := object_fields(value)) is not None:
        for name, item in fields.items():
            vars(value)[name] = _cut(item, collator, length, padded_length)
    return value
