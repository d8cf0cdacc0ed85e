"""The ways to merge calls.

How to merge calls correctly differs between models, and the tensors do not show it. A `MergePlan` is one way to merge.
`candidate_plans` lists the ways worth trying for some calls, the likely ones first; `prove` finds out which one is
right.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from omni_worker.pipelines.adapter_layers import Rows, Selection
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import parts


class CannotMerge(Exception):
    """The plan does not fit the calls or their result."""


class MergeMode(Enum):
    """How one tensor argument of several calls is merged."""

    JOIN = auto()  # concatenate the rows of the calls
    JOIN_SECOND = auto()  # the same, for rows in the second dimension
    SHARE = auto()  # take it once, because it is equal in all calls
    EXPAND = auto()  # repeat one number or one row for all rows of its call
    NONE = auto()  # it belongs to a list that is joined as a whole, or the plan does not fit


@dataclass(frozen=True)
class MergePlan:
    """A way to merge calls.

    modes: of each of a call's leaves, in order
    joins_lists: whether lists with one item per row are concatenated; otherwise they are merged item by item
    by_rows: whether the first rows of all calls come first, then all second rows. Models that cut their batch in half
        need this
    """

    modes: tuple[MergeMode, ...]
    joins_lists: bool
    by_rows: bool = False

    def rows_of(self, selections: Sequence[Selection | None], rows: int) -> Rows | None:
        """The rows of merged calls with `rows` rows each and these adapters. None if the models' state decides."""
        if None in selections:
            return None
        known = [selection for selection in selections if selection is not None]
        return Rows(known * rows if self.by_rows else [selection for selection in known for _ in range(rows)])

    def shared_rows(self, call: Call) -> list[int]:
        """The leaves that are shared although their length is that of the batch. Calls must be equal in them."""
        return [
            i
            for i, (leaf, mode) in enumerate(zip(call.leaves, self.modes, strict=True))
            if mode is MergeMode.SHARE and leaf.value.shape[0] == call.rows
        ]


def candidate_plans(calls: Sequence[Call], equal: Sequence[bool]) -> Iterator[MergePlan]:
    """The plans for `calls`, likely ones first. `equal` says which of their leaves are equal in all calls."""
    rows = calls[0].rows
    candidates = _candidate_modes(calls[0], equal)
    has_lists = any(len(item) == rows for item in _lists((calls[0].args, calls[0].kwargs), set()))
    for modes in candidates:
        for by_rows in (False, True) if rows > 1 else (False,):
            for joins_lists in (True, False) if has_lists else (True,):
                yield MergePlan(modes, joins_lists, by_rows)
    if not has_lists:  # the result may contain a list that happens to be as long as the batch
        yield MergePlan(candidates[0], joins_lists=False)


def _candidate_modes(call: Call, equal: Sequence[bool]) -> list[tuple[MergeMode, ...]]:
    """The modes that each leaf can have.

    First, all rows are joined. A tensor that is equal in all calls may happen to have the length of the batch, so next
    each such tensor is shared, and then all of them. Last, one tensor is joined in its second dimension, or all those
    whose names occur several times, such as the caches of all layers.
    """
    lengths = [leaf.value.shape[0] if leaf.value.dim() else 0 for leaf in call.leaves]
    modes = [_likely_mode(length, call.rows, is_equal) for length, is_equal in zip(lengths, equal, strict=True)]
    ambiguous = [i for i, length in enumerate(lengths) if equal[i] and length == call.rows]
    shared_sets = [[], *([i] for i in ambiguous), ambiguous] if len(ambiguous) > 1 else [[], ambiguous]
    candidates = [
        tuple(MergeMode.SHARE if i in shared else mode for i, mode in enumerate(modes)) for shared in shared_sets
    ]
    has_second = [leaf.value.dim() > 2 and leaf.value.shape[1] == call.rows for leaf in call.leaves]
    for i in [i for i, is_likely in enumerate(has_second) if is_likely and not equal[i]]:
        candidates.append((*modes[:i], MergeMode.JOIN_SECOND, *modes[i + 1 :]))
    counts = Counter(leaf.name for leaf in call.leaves)
    in_layers = [is_likely and counts[leaf.name] > 1 for leaf, is_likely in zip(call.leaves, has_second, strict=True)]
    if any(in_layers):
        pairs = zip(modes, in_layers, strict=True)
        candidates.append(tuple([MergeMode.JOIN_SECOND if is_second else mode for mode, is_second in pairs]))
    return list(dict.fromkeys(candidates))


def _likely_mode(length: int, rows: int, is_equal: bool) -> MergeMode:
    if length == 0:
        return MergeMode.EXPAND
    if is_equal and length != rows:
        return MergeMode.SHARE
    if length % rows == 0:
        return MergeMode.JOIN
    return MergeMode.EXPAND if length == 1 else MergeMode.NONE


def _lists(value: Any, seen: set[int]) -> Iterator[list[Any]]:
    items = parts(value)
    if items is None or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list):
        yield value
    for item in items.values():
        yield from _lists(item, seen)
