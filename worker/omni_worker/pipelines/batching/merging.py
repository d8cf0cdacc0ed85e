"""Runs several calls as one: merges their arguments by a plan, and splits the result again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omni_worker.pipelines.adapter_layers import UnknownRows, exchange_rows
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import Collator, LengthBuckets
from omni_worker.pipelines.batching.effects import Changes, Outcome, Snapshot, changes_since, take_snapshot, with_places
from omni_worker.pipelines.batching.plans import CannotMerge, MergeMode, MergePlan
from omni_worker.pipelines.batching.structure import (
    blank,
    fill,
    flat_values,
    map_tensors,
    object_fields,
    parts,
    rebuild,
)


def run_merged(calls: Sequence[Call], plan: MergePlan, lengths: Sequence[int] = ()) -> list[Outcome]:
    """Run `calls`, which have equal keys, as one model call. Returns the outcome of each. Raises CannotMerge.

    `lengths`: of the calls' sequences before a collator padded them.
    """
    first = calls[0]
    merger = _Merger(plan, first.rows)
    args, kwargs = merger.merge([(call.args, call.kwargs) for call in calls])
    snapshot = take_snapshot(args, kwargs)
    with first.context.active():
        exchange_rows(plan.rows_of([call.context.adapters for call in calls], first.rows))
        try:
            merged = first.target(*args, **kwargs)
        except UnknownRows:
            raise CannotMerge from None
    merged = with_places(merged, snapshot)
    splitter = _Splitter(plan, first.rows, len(calls))
    results = [splitter.part(merged, i) for i in range(len(calls))]
    if lengths:
        results = [
            trim_result(one, first.collator, length, max(lengths)) for one, length in zip(results, lengths, strict=True)
        ]
    changes = changes_since(snapshot)
    if not changes:
        return [Outcome(result, {}) for result in results]
    _check_places(changes, snapshot, take_snapshot(first.args, first.kwargs), bool(lengths))
    return [Outcome(result, splitter.own_part(changes, i)) for i, result in enumerate(results)]


def trim_result(result: Any, collator: Collator | None, length: int, padded_length: int) -> Any:
    """The result of a padded call without its padding, if the model's result has any."""
    return _trim(result, collator, length, padded_length) if collator is not None and collator.trims_result else result


def pad_to_common_length(
    calls: Sequence[Call], buckets: LengthBuckets | None = None
) -> tuple[Sequence[Call], Sequence[int]]:
    """The calls padded to the longest sequence, and their own lengths; the same calls and () if none needs padding.

    buckets: the lengths to choose from, of models whose results have no padding
    """
    collator = calls[0].collator
    if collator is None or not collator.padded:
        return calls, ()
    lengths = [collator.length(call.leaves) for call in calls]
    have_mask = {collator.mask is not None and call.kwargs.get(collator.mask) is not None for call in calls}
    if len(set(lengths)) == 1 and len(have_mask) == 1:
        return calls, ()
    longest = max(lengths)
    if buckets is not None and not collator.trims_result:
        longest = buckets.of(longest)
    return [replace(call, kwargs=collator.pad_arguments(call.kwargs, longest)) for call in calls], lengths


def _check_places(changes: Changes, merged: Snapshot, own: Snapshot, is_padded: bool) -> None:
    """Raises CannotMerge if changes to merged containers do not say what changes in those of a single call."""
    joined = {path for path, (_, items) in merged.items() if path in own and len(items) != len(own[path][1])}
    prefixes = {path[:length] for path in changes for length in range(1, len(path) + 1)}
    if is_padded or joined & prefixes or not changes.keys() <= own.keys():
        raise CannotMerge


class _Merger:
    """Visits the same place of several calls at once. It counts the leaves, because each has its own mode."""

    def __init__(self, plan: MergePlan, rows: int) -> None:
        self._plan = plan
        self._rows = rows
        self._next = 0
        self._merged: dict[int, Any] = {}

    def merge(self, values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            mode = self._plan.modes[self._next]
            self._next += 1
            return self._merge_tensors(values, mode)
        if isinstance(first, dict):
            return rebuild(first, {name: self.merge([value[name] for value in values]) for name in first})
        if isinstance(first, list) and len(first) == self._rows and self._plan.joins_lists:
            self._next += sum(isinstance(item, Tensor) for item in flat_values(first))
            return self._join_lists(values)
        if isinstance(first, list | tuple):
            return rebuild(first, {i: self.merge([value[i] for value in values]) for i in range(len(first))})
        return self._merge_objects(values)

    def _merge_objects(self, values: Sequence[Any]) -> Any:
        first = values[0]
        fields = [object_fields(value) for value in values]
        if fields[0] is None:
            return first
        if id(first) not in self._merged:
            merged = self._merged[id(first)] = blank(first)
            fill(merged, {name: self.merge([one[name] for one in fields if one is not None]) for name in fields[0]})
        return self._merged[id(first)]

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

    def own_part(self, value: Any, i: int) -> Any:
        """One call's part, in memory of its own, because it may be kept for longer than the result."""
        return map_tensors(self.part(value, i), Tensor.clone)

    def part(self, value: Any, i: int) -> Any:
        if isinstance(value, Tensor):
            return self._tensor_part(value, i)
        if isinstance(value, list) and len(value) == self._rows * self._count and self._plan.joins_lists:
            return value[i :: self._count] if self._plan.by_rows else value[i * self._rows : (i + 1) * self._rows]
        items = parts(value)
        return value if items is None else rebuild(value, {name: self.part(item, i) for name, item in items.items()})

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
    items = parts(value)
    if items is None:
        return value
    return rebuild(value, {name: _trim(item, collator, length, padded_length) for name, item in items.items()})
