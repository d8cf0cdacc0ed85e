"""The ranks of a replica: processes that hold the same model and walk through the same code, and divide its calls.

`spread` is where they divide work. Everything else each does for itself, so what `spread` returns, or raises, must be
the same on all of them, to the bit: the owner of an answer too goes on with what it sent, not with what it had.
"""

import math
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from omni_worker.errors import portable

ALIGNMENT = 64
NOTE_BYTES = 4096
_LENGTH_BYTES = 8


class Ranks:
    """This process's place among `size` ranks. A group of one runs everything in place."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def join(cls, rank: int, size: int, store: str) -> "Ranks":
        """Meet the other ranks through the file `store`, which all of them can write. Every rank calls this once."""
        if size > 1:
            on_gpu = torch.cuda.is_available()
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=dist.FileStore(store, size),
                rank=rank,
                world_size=size,
                device_id=torch.device("cuda:0") if on_gpu else None,
            )
        return cls(rank, size)

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of `count` jobs a rank runs (this one where none is named): neighbours, as evenly as can be."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def spread(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """The answer of every job, in their order; each rank runs its share of them.

        All ranks call this with the same jobs. Answers are whatever pickle takes; the tensors in them arrive as
        contiguous tensors without a graph, on the kind of device that they were on. Where a job raises on any rank,
        all ranks raise the error of the first such rank.
        """
        if self.size == 1:
            return [job() for job in jobs]
        note, tensors = self._run([jobs[i] for i in self.share(len(jobs))])
        notes: list[_Note] = [pickle.loads(text) for text in self._exchange_texts(pickle.dumps(note))]
        for one in notes:
            if one.error is not None:
                raise one.error
        kinds = sorted({kind for one in notes for kind in one.sizes})  # the same order everywhere
        parcels = {kind: self._exchange(kind, notes, tensors) for kind in kinds}
        return [
            answer
            for rank, one in enumerate(notes)
            for answer in _Unpacker(one, {kind: parcels[kind][rank] for kind in one.sizes}).load()
        ]

    def close(self) -> None:
        """Leave the others. Nothing can be spread after that."""
        if self.size > 1:
            dist.destroy_process_group()

    def _run(self, jobs: Sequence[Callable[[], Any]]) -> tuple["_Note", list[Tensor]]:
        stream = BytesIO()
        packer = _Packer(stream)
        try:
            packer.dump([job() for job in jobs])
        except Exception as error:
            sent = portable(error)
            sent.add_note(f"on rank {self.rank} of {self.size}: {''.join(traceback.format_exception(error))}".rstrip())
            return _Note(error=sent), []
        return _Note(stream.getvalue(), packer.places, packer.sizes), packer.tensors

    def _exchange_texts(self, text: bytes) -> list[bytes]:
        """Every rank's text: in one message each where all are short, as they mostly are, else in two."""
        frame = len(text).to_bytes(_LENGTH_BYTES) + text
        frames = self._gather(frame[:NOTE_BYTES], NOTE_BYTES)
        longest = max(int.from_bytes(one[:_LENGTH_BYTES]) for one in frames)
        if longest > NOTE_BYTES - _LENGTH_BYTES:
            frames = self._gather(frame, _LENGTH_BYTES + longest)
        return [one[_LENGTH_BYTES:][: int.from_bytes(one[:_LENGTH_BYTES])] for one in frames]

    def _gather(self, frame: bytes, length: int) -> list[bytes]:
        own = torch.frombuffer(bytearray(frame.ljust(length, b"\0")), dtype=torch.uint8)
        frames = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(frames, own)
        return [one.numpy().tobytes() for one in frames]

    def _exchange(self, kind: str, notes: "Sequence[_Note]", tensors: Sequence[Tensor]) -> list[Tensor]:
        """Every rank's tensors on this kind of device, as bytes."""
        sizes = [note.sizes.get(kind, 0) for note in notes]
        parcel = torch.empty(max(sizes), dtype=torch.uint8, device=kind)
        for place, tensor in zip(notes[self.rank].places, tensors, strict=True):
            if place.kind == kind:
                place.of(parcel).copy_(tensor)
        owners = [rank for rank, size in enumerate(sizes) if size]
        if len(owners) <= 1:
            if owners:
                dist.broadcast(parcel, src=owners[0])
            return [parcel] * self.size
        parcels = [torch.empty_like(parcel) for _ in range(self.size)]
        dist.all_gather(parcels, parcel)
        return parcels


class _Place(NamedTuple):
    """Where a tensor lies among the bytes of its rank's tensors on one kind of device."""

    kind: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def of(self, parcel: Tensor) -> Tensor:
        """The tensor there."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return parcel[self.offset : self.offset + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class _Note:
    """What the others must know of a rank's answers: all but what is in the tensors, or the error.

    sizes: by kind of device, how many bytes the tensors take
    """

    answers: bytes = b""
    places: list[_Place] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    error: Exception | None = None


class _Packer(pickle.Pickler):
    """Pickles answers, and sets their tensors aside."""

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.tensors: list[Tensor] = []
        self.places: list[_Place] = []
        self.sizes: dict[str, int] = {}
        self._seen: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return None
        if id(value) not in self._seen:
            self._seen[id(value)] = len(self.tensors)
            kind, size = value.device.type, value.numel() * value.dtype.itemsize
            self.places.append(_Place(kind, self.sizes.get(kind, 0), value.dtype, tuple(value.shape)))
            self.sizes[kind] = self.sizes.get(kind, 0) + -(-size // ALIGNMENT) * ALIGNMENT
            self.tensors.append(value.detach())
        return self._seen[id(value)]


class _Unpacker(pickle.Unpickler):
    """Puts the tensors back, as views of what came; the same tensor twice is one again."""

    def __init__(self, note: _Note, parcels: dict[str, Tensor]) -> None:
        super().__init__(BytesIO(note.answers))
        self._tensors = [place.of(parcels[place.kind]) for place in note.places]

    def persistent_load(self, index: int) -> Tensor:
        return self._tensors[index]
