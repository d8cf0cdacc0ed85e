"""The keys and values of all requests: one row of every layer's tensors a request, whatever its length.

Requests that go on by one token together sit in neighbouring rows, so that attention reads a view: where they do not,
rows change places, which is rare, since requests that run together stay together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from omni_worker.language.attention import CurrentLayout, Segment, TokenLayout

BLOCK = 64  # tokens by which rows grow, at least


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: (rows, heads, length, width) each. Made when the layer is first called."""

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
        """Write what a call adds, (1, heads, tokens, width), and give all that is held."""
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
    """Rows for at most `max_tokens` together (None: no bound); `sliding` says of each layer if it sees a window only.

    Every row is as long as the longest must be. `enter` says where the next call of the model reads and writes.
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
        """What one token of one request takes; 0 before the first call."""
        made = [one for layer in self.layers if layer.is_initialized for one in (layer.keys, layer.values)]
        return sum(one.shape[1] * one.shape[3] * one.element_size() for one in made)

    @property
    def holders(self) -> list[str]:
        """The requests that have a row."""
        return list(self._row)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """The positions of the call's tokens, for `slot_mask`."""
        return self.current.layout.positions

    def reserve(self, ids: Sequence[str], length: int) -> bool:
        """Have a row of at least `length` tokens for each; what they hold stays. False where there is no room: then
        nothing changed, and somebody is to give up a row."""
        newcomers = [id for id in dict.fromkeys(ids) if id not in self._row]
        rows = len(self._row) + len(newcomers)
        if rows > self.rows or length > self.length:
            least = rows, -(-max(length, *self._reserved.values(), 1) // BLOCK) * BLOCK
            ample = (
                self.rows if rows <= self.rows else max(rows, 2 * self.rows),
                self.length if length <= self.length else max(least[1], self.length * 3 // 2 // BLOCK * BLOCK),
            )
            size = next((one for one in (ample, least) if self._fits(*one)), None)
            if size is None:
                return False
            self._resize(*size)
        taken = set(self._row.values())
        free = (row for row in range(self.rows) if row not in taken)
        for id, row in zip(newcomers, free, strict=False):
            self._row[id] = row
            for layer in self._made:  # what another left must not be read, not even multiplied by nought: it may be NaN
                layer.keys[row].zero_()
                layer.values[row].zero_()
        self._reserved.update((id, max(length, self._reserved.get(id, 0))) for id in ids)
        return True

    def _fits(self, rows: int, length: int) -> bool:
        return self.max_tokens is None or rows * length <= self.max_tokens

    def release(self, id: str) -> None:
        """Give up a row; an id that has none is passed over."""
        self._row.pop(id, None)
        self._reserved.pop(id, None)

    def enter(self, calls: Sequence[tuple[str, int, int]]) -> list[int]:
        """Aim the next call at these requests, which have rows: of each, so many tokens from a position on.

        Gives the order in which their tokens are to be put one after another.
        """
        singles = [i for i, (_, _, count) in enumerate(calls) if count == 1]
        parts: list[Segment] = []
        if singles:
            first = self._gather([calls[i][0] for i in singles])
            singles.sort(key=lambda i: self._row[calls[i][0]])
            span = max(calls[i][1] for i in singles) + 1
            parts.append(Segment(0, len(singles), slice(first, first + len(singles)), span))
        order = singles + [i for i, (_, _, count) in enumerate(calls) if count > 1]
        rows: list[int] = []
        positions: list[int] = []
        for id, start, count in (calls[i] for i in order):
            row = self._row[id]
            if count > 1:
                parts.append(Segment(len(rows), len(rows) + count, slice(row, row + 1), start + count))
            rows += [row] * count
            positions += range(start, start + count)
        places = torch.tensor([rows, positions], device=self._device)
        self.current.layout = TokenLayout(places[0], places[1], tuple(parts), max(part.span for part in parts))
        return order

    def _gather(self, ids: Sequence[str]) -> int:
        """Bring the requests into neighbouring rows, with as few changes of place as can be; the first of the rows."""
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
        for layer in self._made:
            for states in (layer.keys, layer.values):
                kept = states[other].clone() if both else None
                states[other] = states[one]
                if kept is not None:
                    states[one] = kept

    def _resize(self, rows: int, length: int) -> None:
        """Move all rows into tensors of another size, without gaps."""
        order = sorted(self._row, key=self._row.__getitem__)
        kept = torch.tensor([self._row[id] for id in order], dtype=torch.long)
        common = min(length, self.length)
        for layer in self._made:
            layer.keys, layer.values = (
                _moved(states, kept.to(states.device), rows, length, common) for states in (layer.keys, layer.values)
            )
        self._row = {id: row for row, id in enumerate(order)}
        self.rows, self.length = rows, length

    @property
    def _made(self) -> list[Any]:
        return [layer for layer in self.layers if layer.is_initialized]


def _moved(states: Tensor, kept: Tensor, rows: int, length: int, common: int) -> Tensor:
    moved = states.new_zeros(rows, states.shape[1], length, states.shape[3])
    moved[: len(kept), :, :common] = states[kept, :, :common]
    return moved
