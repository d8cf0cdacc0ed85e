"""The key-value cache of all requests: each request has one row, a stretch of every layer's tensors.

Rows of the same capacity lie side by side in a region, so attention over the requests of a region reads a view. A
request's row is as long as its own text needs, whatever the others need. When it outgrows its row, it moves to a region
of longer ones. Capacities are powers of two while there is memory, so that there are few regions; if memory gets short,
rows are cut closer to what they contain.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from omni_worker.language.attention import CurrentLayout, Segment, TokenLayout

BLOCK = 16  # capacities are multiples of so many tokens
SMALLEST = 64  # the smallest capacity while there is memory


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, (1, heads, size, width) each. Allocated when the layer is first called."""

    def __init__(self, slots: "SlotCache", is_sliding: bool) -> None:
        super().__init__()
        self.is_sliding = is_sliding
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_zeros(1, states.shape[1], self._slots.size, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a call's keys and values, (1, heads, tokens, width); returns those of all rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        places = self._slots.current.layout.places
        self.keys.index_copy_(2, places, key_states)
        self.values.index_copy_(2, places, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.current.layout.span, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


@dataclass(frozen=True)
class Region:
    """`rows` rows of `capacity` tokens each, side by side from the token `begin` of the tensors on."""

    capacity: int
    begin: int
    rows: int

    def offset(self, row: int) -> int:
        """The first token of a row."""
        return self.begin + row * self.capacity


class Place(NamedTuple):
    """A request's row: a row of the region of this capacity."""

    capacity: int
    row: int


class Move(NamedTuple):
    """Tokens that change places: `length` of them from `source`, to a row that begins at `target`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class Fit:
    """How closely rows fit their texts.

    steps: how many capacities there are between a power of two and the next; None for every multiple of BLOCK
    spare: free rows of a region, as a share of those that are needed
    """

    steps: int | None
    spare: float

    def capacity(self, length: int) -> int:
        """The capacity of the row of a text of `length` tokens."""
        unit = BLOCK
        if self.steps is not None:
            length = max(length, SMALLEST)
            unit = max(BLOCK, (1 << (length - 1).bit_length()) // (2 * self.steps))
        return -(-length // unit) * unit

    def regions(self, lengths: Collection[int]) -> dict[int, Region]:
        """Regions, by capacity, with a row for each of the texts of these lengths."""
        regions, begin = {}, 0
        for capacity, count in sorted(Counter(map(self.capacity, lengths)).items()):
            regions[capacity] = Region(capacity, begin, count + int(count * self.spare))
            begin += capacity * regions[capacity].rows
        return regions


FITS = (Fit(1, 0.5), Fit(4, 0.25), Fit(4, 0.0), Fit(None, 0.0))
"""From the fastest to the smallest."""


class SlotCache(Cache):  # type: ignore[misc]
    """Rows for at most `max_tokens` tokens in total (None: no bound).

    `sliding` says for each layer whether it attends to a window only. `set_layout` determines where the next call of
    the model reads and writes.
    """

    def __init__(self, sliding: Sequence[bool], device: torch.device | str = "cpu") -> None:
        super().__init__(layers=[SlotLayer(self, one) for one in sliding])
        self._device = torch.device(device)
        self.size = BLOCK
        self.current = CurrentLayout()
        self.max_tokens: int | None = None
        self._regions: dict[int, Region] = {}
        self._places: dict[str, Place] = {}
        self._lengths: dict[str, int] = {}

    @property
    def token_bytes(self) -> int:
        """The memory of one token of one request; 0 before the first call."""
        allocated = [one for layer in self._allocated for one in (layer.keys, layer.values)]
        return sum(one.shape[1] * one.shape[3] * one.element_size() for one in allocated)

    @property
    def ids(self) -> list[str]:
        """The ids of the requests that have a row."""
        return list(self._places)

    @property
    def rows(self) -> int:
        """The number of rows, free ones included."""
        return sum(region.rows for region in self._regions.values())

    @property
    def length(self) -> int:
        """The capacity of the longest row."""
        return max(self._regions, default=0)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """The positions of the call's tokens, for `slot_mask`."""
        return self.current.layout.positions

    def reserve(self, lengths: Mapping[str, int]) -> bool:
        """Give each of these requests a row of at least so many tokens, and keep what its row contains.

        Returns False, without any change, if there is no room: another request must release its row first.
        """
        needed = {id: max(length, self._lengths.get(id, 0)) for id, length in lengths.items()}
        outgrown = {id: one for id, one in needed.items() if id not in self._places or self._places[id].capacity < one}
        if outgrown and not self._move_to_free_rows(outgrown) and not self._rearrange(self._lengths | needed):
            return False
        self._lengths |= needed
        return True

    def release(self, id: str) -> None:
        """Release a request's row. Ids without a row are ignored."""
        self._places.pop(id, None)
        self._lengths.pop(id, None)

    def clear(self) -> None:
        """Release all rows and the memory of their tokens."""
        self._places.clear()
        self._lengths.clear()
        self._regions = {}
        self._write([], [], BLOCK)

    def set_layout(self, inputs: Sequence[tuple[str, int, int]], text_lengths: Sequence[int] = ()) -> list[int]:
        """Set the layout of the next call. An input is (id of a request with a row, first position, number of tokens).

        `text_lengths` has the length of each input's text if the model depends on it. Returns the order in which the
        inputs' tokens must be concatenated.
        """
        by_capacity: dict[int, list[int]] = {}
        for i, (id, _, count) in enumerate(inputs):
            if count == 1:
                by_capacity.setdefault(self._places[id].capacity, []).append(i)
        order: list[int] = []
        segments: list[Segment] = []
        for capacity, singles in by_capacity.items():
            region = self._regions[capacity]
            first = self._gather(region, [inputs[i][0] for i in singles])
            singles.sort(key=lambda i: self._places[inputs[i][0]].row)
            end, span = len(order) + len(singles), max(inputs[i][1] for i in singles) + 1
            segments.append(Segment(len(order), end, region.offset(first), len(singles), capacity, span))
            order += singles
        order += [i for i, (_, _, count) in enumerate(inputs) if count > 1]
        places: list[int] = []
        positions: list[int] = []
        for id, start, count in (inputs[i] for i in order):
            offset, capacity = self._offset(self._places[id]), self._places[id].capacity
            if count > 1:
                segments.append(Segment(len(places), len(places) + count, offset, 1, capacity, start + count))
            places += range(offset + start, offset + start + count)
            positions += range(start, start + count)
        both = torch.tensor([places, positions], device=self._device)
        of_tokens = tuple(text_lengths[i] for i in order for _ in range(inputs[i][2])) if text_lengths else ()
        span = max(segment.span for segment in segments)
        self.current.layout = TokenLayout(both[0], both[1], tuple(segments), span, of_tokens)
        return order

    def _offset(self, place: Place) -> int:
        return self._regions[place.capacity].offset(place.row)

    def _move_to_free_rows(self, lengths: Mapping[str, int]) -> bool:
        """Give these requests free rows that are long enough but not much longer; False, without any change, if not."""
        taken = set(self._places.values())
        free = [
            Place(region.capacity, row)
            for region in sorted(self._regions.values(), key=lambda region: region.capacity)
            for row in range(region.rows)
            if (region.capacity, row) not in taken
        ]
        chosen: dict[str, Place] = {}
        for id, length in lengths.items():
            limit = FITS[0].capacity(length)
            place = next((one for one in free if length <= one.capacity <= limit), None)
            if place is None:
                return False
            free.remove(place)
            chosen[id] = place
        moves = [
            Move(self._offset(self._places[id]), self._offset(place), self._lengths[id])
            for id, place in chosen.items()
            if id in self._places
        ]
        self._places |= chosen
        self._write(moves, [(self._offset(place), place.capacity) for place in chosen.values()])
        return True

    def _rearrange(self, lengths: Mapping[str, int]) -> bool:
        """Make other regions, in which all requests have rows of these lengths; False, without any change, if not."""
        for fit in FITS:
            regions = fit.regions(lengths.values())
            size = sum(region.capacity * region.rows for region in regions.values())
            if self.max_tokens is None or size <= self.max_tokens:
                break
        else:
            return False
        before = {id: (self._offset(place), self._lengths[id]) for id, place in self._places.items()}
        rows: Counter[int] = Counter()
        self._regions, self._places = regions, {}
        for id, length in lengths.items():
            capacity = fit.capacity(length)
            self._places[id] = Place(capacity, rows[capacity])
            rows[capacity] += 1
        moves = [Move(source, self._offset(self._places[id]), length) for id, (source, length) in before.items()]
        self._write(moves, [(0, max(size, self.size))], max(size, self.size))
        return True

    def _gather(self, region: Region, ids: Sequence[str]) -> int:
        """Move the requests into neighbouring rows of their region with as few moves as possible; returns the first."""
        rows = [self._places[id].row for id in ids]
        begin, count = min(rows), len(rows)
        if max(rows) - begin < count:
            return begin
        inside = {begin: sum(begin <= row < begin + count for row in rows) for begin in range(region.rows - count + 1)}
        begin = max(inside, key=inside.__getitem__)
        owners = {place.row: id for id, place in self._places.items() if place.capacity == region.capacity}
        wanted = set(rows)
        outside = [row for row in rows if not begin <= row < begin + count]
        free = [row for row in range(begin, begin + count) if row not in wanted]
        moves: list[Move] = []
        for row, other in zip(outside, free, strict=True):
            for source, target in ((row, other), (other, row)):
                if (id := owners.get(source)) is not None:
                    self._places[id] = Place(region.capacity, target)
                    moves.append(Move(region.offset(source), region.offset(target), region.capacity))
        self._write(moves, [])
        return begin

    def _write(self, moves: Sequence[Move], cleared: Iterable[tuple[int, int]], size: int | None = None) -> None:
        """Set the (first token, count) in `cleared` to zero, then move tokens, all at once; `size` resizes the tensors.

        Masks multiply what is not a request's own by zero, but zero times NaN is NaN. So no row keeps what another
        request wrote.
        """
        is_resized, self.size = size is not None and size != self.size, size or self.size
        source = self._indices((move.source, move.length) for move in moves)
        target = self._indices((move.target, move.length) for move in moves)
        zeros = self._indices(() if is_resized else cleared)
        for layer in self._allocated:
            for name in ("keys", "values"):
                states: Tensor = getattr(layer, name)
                kept = states.index_select(2, source)
                if is_resized:
                    states = states.new_zeros(1, states.shape[1], self.size, states.shape[3])
                    setattr(layer, name, states)
                states.index_fill_(2, zeros, 0).index_copy_(2, target, kept)

    def _indices(self, ranges: Iterable[tuple[int, int]]) -> Tensor:
        parts = [torch.arange(begin, begin + count) for begin, count in ranges]
        return torch.cat(parts or [torch.empty(0, dtype=torch.long)]).to(self._device)

    @property
    def _allocated(self) -> list[Any]:
        return [layer for layer in self.layers if layer.is_initialized]
