"""The ranks of a replica: processes that have the same model, run the same code, and divide its calls.

They divide work only in `spread`. Each rank does everything else by itself, so `spread` must return or raise the same
on all of them, to the bit. Therefore the rank that computed a result also continues with the copy that it sent.
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
SHORT_BYTES = 4096
_LENGTH_BYTES = 8


class Ranks:
    """This process's place among `size` ranks. A single rank runs all jobs itself."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def join(cls, rank: int, size: int, store: str) -> "Ranks":
        """Join the other ranks through the file `store`, which all of them can write. Every rank calls this once."""
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
        """The indices of the jobs that a rank (by default this one) runs: consecutive, and evenly distributed."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def spread(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run each rank's share of the jobs; returns the results of all jobs in their order.

        All ranks must call this with the same jobs. Results must be picklable. Their tensors arrive contiguous, without
        an autograd graph, on the same kind of device. If a job raises on any rank, all ranks raise the error of the
        first such rank.
        """
        if self.size == 1:
            return [job() for job in jobs]
        header, tensors = self._run([jobs[i] for i in self.share(len(jobs))])
        headers: list[_Header] = [pickle.loads(data) for data in self._exchange_bytes(pickle.dumps(header))]
        for one in headers:
            if one.error is not None:
                raise one.error
        kinds = sorted({kind for one in headers for kind in one.sizes})  # the same order everywhere
        buffers = {kind: self._exchange(kind, headers, tensors) for kind in kinds}
        return [
            result
            for rank, one in enumerate(headers)
            for result in _Unpacker(one, {kind: buffers[kind][rank] for kind in one.sizes}).load()
        ]

    def close(self) -> None:
        """Leave the group. `spread` must not be called after that."""
        if self.size > 1:
            dist.destroy_process_group()

    def _run(self, jobs: Sequence[Callable[[], Any]]) -> tuple["_Header", list[Tensor]]:
        stream = BytesIO()
        packer = _Packer(stream)
        try:
            packer.dump([job() for job in jobs])
        except Exception as error:
            sent = portable(error)
            sent.add_note(f"on rank {self.rank} of {self.size}: {''.join(traceback.format_exception(error))}".rstrip())
            return _Header(error=sent), []
        return _Header(stream.getvalue(), packer.places, packer.sizes), packer.tensors

    def _exchange_bytes(self, data: bytes) -> list[bytes]:
        """Every rank's bytes: in one message each if all are short, which is the usual case, otherwise in two."""
        frame = len(data).to_bytes(_LENGTH_BYTES) + data
        frames = self._gather(frame[:SHORT_BYTES], SHORT_BYTES)
        longest = max(int.from_bytes(one[:_LENGTH_BYTES]) for one in frames)
        if longest > SHORT_BYTES - _LENGTH_BYTES:
            frames = self._gather(frame, _LENGTH_BYTES + longest)
        return [one[_LENGTH_BYTES:][: int.from_bytes(one[:_LENGTH_BYTES])] for one in frames]

    def _gather(self, frame: bytes, length: int) -> list[bytes]:
        own = torch.frombuffer(bytearray(frame.ljust(length, b"\0")), dtype=torch.uint8)
        frames = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(frames, own)
        return [one.numpy().tobytes() for one in frames]

    def _exchange(self, kind: str, headers: "Sequence[_Header]", tensors: Sequence[Tensor]) -> list[Tensor]:
        """Every rank's tensors on this kind of device, each rank's in one buffer of bytes."""
        sizes = [header.sizes.get(kind, 0) for header in headers]
        buffer = torch.empty(max(sizes), dtype=torch.uint8, device=kind)
        for place, tensor in zip(headers[self.rank].places, tensors, strict=True):
            if place.kind == kind:
                place.of(buffer).copy_(tensor)
        owners = [rank for rank, size in enumerate(sizes) if size]
        if len(owners) <= 1:
            if owners:
                dist.broadcast(buffer, src=owners[0])
            return [buffer] * self.size
        buffers = [torch.empty_like(buffer) for _ in range(self.size)]
        dist.all_gather(buffers, buffer)
        return buffers


class _TensorPlace(NamedTuple):
    """Where a tensor is in the buffer of its rank's tensors on one kind of device."""

    kind: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def of(self, buffer: Tensor) -> Tensor:
        """The tensor, as a view of the buffer."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return buffer[self.offset : self.offset + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class _Header:
    """What a rank sends besides its tensors: its results without them and their places, or its error.

    sizes: the number of bytes of its tensors, by kind of device
    """

    results: bytes = b""
    places: list[_TensorPlace] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    error: Exception | None = None


class _Packer(pickle.Pickler):
    """Pickles results without their tensors, and collects the tensors."""

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.tensors: list[Tensor] = []
        self.places: list[_TensorPlace] = []
        self.sizes: dict[str, int] = {}
        self._seen: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return None
        if id(value) not in self._seen:
            self._seen[id(value)] = len(self.tensors)
            kind, size = value.device.type, value.numel() * value.dtype.itemsize
            self.places.append(_TensorPlace(kind, self.sizes.get(kind, 0), value.dtype, tuple(value.shape)))
            self.sizes[kind] = self.sizes.get(kind, 0) + -(-size // ALIGNMENT) * ALIGNMENT
            self.tensors.append(value.detach())
        return self._seen[id(value)]


class _Unpacker(pickle.Unpickler):
    """Restores the tensors as views of the buffers. A tensor that occurs twice in a result is one tensor again."""

    def __init__(self, header: _Header, buffers: dict[str, Tensor]) -> None:
        super().__init__(BytesIO(header.results))
        self._tensors = [place.of(buffers[place.kind]) for place in header.places]

    def persistent_load(self, index: int) -> Tensor:
        return self._tensors[index]
