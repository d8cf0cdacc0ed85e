"""Runs several calls as one: merges their arguments by a plan, and splits the result again."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import Collator
from omni_worker.pipelines.batching.plans import CannotMerge, MergeMode, MergePlan
from omni_worker.pipelines.batching.structure import flat_values, object_fields, rebuild_mapping, rebuild_sequence


def run_merged(calls: Sequence[Call], plan: MergePlan, lengths: Sequence[int] = ()) -> list[Any]:
    """Run `calls`, which have equal keys, as one model call. Returns the result of each. Raises CannotMerge.

    `lengths`: of the calls' sequences before a collator padded them.
    """
    first = calls[0]
    merger = _Merger(plan, first.rows)
    args = merger.merge([call.args for call in calls])
    kwargs = merger.merge([call.kwargs for call in calls])
    with first.context.active():
        merged = first.target(*args, **kwargs)
    splitter = _Splitter(plan, first.rows, len(calls))
    results = [splitter.part(merged, i) for i in range(len(calls))]
    if not lengths:
        return results
    return [
        trim_result(one, first.collator, length, max(lengths)) for one, length in zip(results, lengths, strict=True)
    ]


def trim_result(result: Any, collator: Collator | None, length: int, padded_length: int) -> Any:
    """The result of a padded call without its padding, if the model's result has any."""
    return _trim(result, collator, length, padded_length) if collator is not None and collator.trims_result else result


def pad_to_common_length(calls: Sequence[Call]) -> tuple[Sequence[Call], Sequence[int]]:
    """The calls padded to the longest sequence, and their own lengths; the same calls and () if none needs padding."""
    collator = calls[0].collator
    if collator is None or not collator.padded:
        return calls, ()
    lengths = [collator.length(call.leaves) for call in calls]
    have_mask = {collator.mask is not None and call.kwargs.get(collator.mask) is not None for call in calls}
    if len(set(lengths)) == 1 and len(have_mask) == 1:
        return calls, ()
    longest = max(lengths)
    return [replace(call, kwargs=collator.pad_arguments(call.kwargs, longest)) for call in calls], lengths


class _Merger:
    """Visits the same place of several calls at once. It counts the leaves, because each has its own mode."""

    def __init__(self, plan: MergePlan, rows: int) -> None:
        self._plan = plan
        self._rows = rows
        self._next = 0

    def merge(self, values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            mode = self._plan.modes[self._next]
            self._next += 1
            return self._merge_tensors(values, mode)
        if isinstance(first, dict):
            return {name: self.merge([value[name] for value in values]) for name in first}
        if isinstance(first, list) and len(first) == self._rows and self._plan.joins_lists:
            self._next += sum(isinstance(item, Tensor) for item in flat_values(first))
            return self._join_lists(values)
        if isinstance(first, list | tuple):
            return rebuild_sequence(first, [self.merge(items) for items in zip(*values, strict=True)])
        return first

    def _join_lists(self, values: Sequence[list[Any]]) -> list[Any]:
        if self._plan.by_rows:
            return [item for row in zip(*values, strict=True) for item in row]
        return [item for value in values for item in value]

    def _merge_tensors(self, values: Sequence[Tensor], mode: MergeMode) -> Tensor:
        if mode is MergeMode.NONE:
            raise CannotMerge
        if mode is MergeMode.SHARE:
            return values[0]
        if mode is MergeMode.EXPAND:
            values = [value.reshape(1, *value.shape[1:]).expand(self._rows, *value.shape[1:]) for value in values]
        if mode is MergeMode.JOIN_SECOND:
            return self._concatenate([value.transpose(0, 1) for value in values]).transpose(0, 1)
        return self._concatenate(values)

    def _concatenate(self, values: Sequence[Tensor]) -> Tensor:
        if not self._plan.by_rows:
            return torch.cat(list(values))
        return torch.stack([value.unflatten(0, (self._rows, -1)) for value in values], dim=1).flatten(0, 2)


class _Splitter:
    """Takes one call's part out of a merged result."""

    def __init__(self, plan: MergePlan, rows: int, count: int) -> None:
        self._plan = plan
        self._rows = rows
        self._count = count

    def part(self, value: Any, i: int) -> Any:
        if isinstance(value, Tensor):
            return self._tensor_part(value, i)
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

    def _tensor_part(self, value: Tensor, i: int) -> Tensor:
        if value.dim() == 0:
            return value
        if value.shape[0] % (self._rows * self._count):
            raise CannotMerge
        if self._plan.by_rows:
            return value.unflatten(0, (self._rows, self._count, -1))[:, i].flatten(0, 1)
        length = value.shape[0] // self._count
        return value[i * length : (i + 1) * length]


def _trim(value: Any, collator: Collator, length: int, padded_length: int) -> Any:
    if isinstance(value, Tensor):
        return collator.trim(value, length, padded_length)
    if isinstance(value, dict):
        return rebuild_mapping(
            value, {name: _trim(item, collator, length, padded_length) for name, item in value.items()}
        )
    if isinstance(value, list | tuple):
        return rebuild_sequence(value, [_trim(item, collator, length, padded_length) for item in value])
    if (fields := object_fields(value)) is not None:
        for name, item in fields.items():
            vars(value)[name] = _trim(item, collator, length, padded_length)
    return value
