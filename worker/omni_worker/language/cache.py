"""The key-value cache of all requests: each request has one row (a slot) of every layer's tensors.

Requests that decode one token together have neighbouring rows, so that attention reads a view. If they do not, rows
change places. That is rare, because requests that run together stay together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from omni_worker.language.attention import CurrentLayout, Segment, TokenLayout

BLOCK = 64  # rows grow by multiples of so many tokens


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, (rows, heads, length, width) each. Allocated when the layer is first called."""

    def __init__(self, slots: "SlotCache", is_sliding: bool) -> None:
        super().__init__()
        self.is_sliding = is_sliding
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_zeros(self._slots.rows, states.shape[1], self._slots.length, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a call's keys and values, (1, heads, tokens, width); returns those of all rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        layout = self._slots.current.layout
        self.keys[layout.rows, :, layout.positions] = key_states[0].transpose(0, 1)
        self.values[layout.rows, :, layout.positions] = value_states[0].transpose(0, 1)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.current.layout.span, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """Rows for at most `max_tokens` tokens in total (None: no bound). All rows have the same length.

    `sliding` says for each layer whether it attends to a window only. `set_layout` determines where the next call of
    the model reads and writes.
    """

    def __init__(self, sliding: Sequence[bool], device: torch.device | str = "cpu") -> None:
        super().__init__(layers=[SlotLayer(self, one) for one in sliding])
        self._device = torch.device(device)
        self.rows, self.length = 1, BLOCK
        self.current = CurrentLayout()
        self.max_tokens: int | None = None
        self._row: dict[str, int] = {}
        self._reserved: dict[str, int] = {}

    @property
    def token_bytes(self) -> int:
        """The memory of one token of one request; 0 before the first call."""
        allocated = [one for layer in self.layers if layer.is_initialized for one in (layer.keys, layer.values)]
        return sum(one.shape[1] * one.shape[3] * one.element_size() for one in allocated)

    @property
    def ids(self) -> list[str]:
        """The ids of the requests that have a row."""
        return list(self._row)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """The positions of the call's tokens, for `slot_mask`."""
        return self.current.layout.positions

    def reserve(self, ids: Sequence[str], length: int) -> bool:
        """Give each request a row of at least `length` tokens, and keep what its row contains.

        Returns False, without any change, if there is no room: another request must release its row first.
        """
        new_ids = [id for id in dict.fromkeys(ids) if id not in self._row]
        rows = len(self._row) + len(new_ids)
        if rows > self.rows or length > self.length:
            minimum = rows, -(-max(length, *self._reserved.values(), 1) // BLOCK) * BLOCK
            preferred = (
                self.rows if rows <= self.rows else max(rows, 2 * self.rows),
                self.length if length <= self.length else max(minimum[1], self.length * 3 // 2 // BLOCK * BLOCK),
            )
            size = next((one for one in (preferred, minimum) if self._fits(*one)), None)
            if size is None:
                return False
            self._resize(*size)
        taken = set(self._row.values())
        free = (row for row in range(self.rows) if row not in taken)
        for id, row in zip(new_ids, free, strict=False):
            self._row[id] = row
            # Masks multiply another request's values by zero, but zero times NaN is NaN.
            for layer in self._allocated:
                layer.keys[row].zero_()
                layer.values[row].zero_()
        self._reserved.update((id, max(length, self._reserved.get(id, 0))) for id in ids)
        return True

    def _fits(self, rows: int, length: int) -> bool:
        return self.max_tokens is None or rows * length <= self.max_tokens

    def release(self, id: str) -> None:
        """Release a request's row. Ids without a row are ignored."""
        self._row.pop(id, None)
        self._reserved.pop(id, None)

    def set_layout(self, inputs: Sequence[tuple[str, int, int]], text_lengths: Sequence[int] = ()) -> list[int]:
        """Set the layout of the next call. An input is (id of a request with a row, first position, number of tokens).

        `text_lengths` has the length of each input's text if the model depends on it. Returns the order in which the
        inputs' tokens must be concatenated.
        """
        singles = [i for i, (_, _, count) in enumerate(inputs) if count == 1]
        segments: list[Segment] = []
        if singles:
            first = self._gather([inputs[i][0] for i in singles])
            singles.sort(key=lambda i: self._row[inputs[i][0]])
            span = max(inputs[i][1] for i in singles) + 1
            segments.append(Segment(0, len(singles), slice(first, first + len(singles)), span))
        order = singles + [i for i, (_, _, count) in enumerate(inputs) if count > 1]
        rows: list[int] = []
        positions: list[int] = []
        for id, start, count in (inputs[i] for i in order):
            row = self._row[id]
            if count > 1:
                segments.append(Segment(len(rows), len(rows) + count, slice(row, row + 1), start + count))
            rows += [row] * count
            positions += range(start, start + count)
        places = torch.tensor([rows, positions], device=self._device)
        lengths = tuple(text_lengths[i] for i in order for _ in range(inputs[i][2])) if text_lengths else ()
        self.current.layout = TokenLayout(
            places[0], places[1], tuple(segments), max(segment.span for segment in segments), lengths
        )
        return order

    def _gather(self, ids: Sequence[str]) -> int:
        """Move the requests into neighbouring rows with as few moves as possible; returns the first of these rows."""
        rows = [self._row[id] for id in ids]
        begin, count = min(rows), len(rows)
        if max(rows) - begin < count:
            return begin
        inside = {begin: sum(begin <= row < begin + count for row in rows) for begin in range(self.rows - count + 1)}
        begin = max(inside, key=inside.__getitem__)
        taken = set(rows)
        free = [row for row in range(begin, begin + count) if row not in taken]
        owners = {row: id for id, row in self._row.items()}
        for row in [row for row in rows if not begin <= row < begin + count]:
            self._exchange(row, place := free.pop(), place in owners)
            self._row[owners[row]] = place
            if place in owners:
                self._row[owners[place]] = row
        return begin

    def _exchange(self, one: int, other: int, both: bool) -> None:
        for layer in self._allocated:
            for states in (layer.keys, layer.values):
                kept = states[other].clone() if both else None
                states[other] = states[one]
                if kept is not None:
                    states[one] = kept

    def _resize(self, rows: int, length: int) -> None:
        """Move all rows into tensors of another size, without gaps between rows."""
        order = sorted(self._row, key=self._row.__getitem__)
        kept = torch.tensor([self._row[id] for id in order], dtype=torch.long)
        common = min(length, self.length)
        for layer in self._allocated:
            layer.keys, layer.values = (
                _moved(states, kept.to(states.device), rows, length, common) for states in (layer.keys, layer.values)
            )
        self._row = {id: row for row, id in enumerate(order)}
        self.rows, self.length = rows, length

    @property
    def _allocated(self) -> list[Any]:
        return [layer for layer in self.layers if layer.is_initialized]


def _moved(states: Tensor, kept: Tensor, rows: int, length: int, common: int) -> Tensor:
    moved = states.new_zeros(rows, states.shape[1], length, states.shape[3])
    moved[: len(kept), :, :common] = states[kept, :, :common]
    return moved
