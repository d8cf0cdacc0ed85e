"""The ranks of a replica: processes that have the same model, run the same code, and divide its calls.

They divide work only in `spread`. Each rank does everything else by itself, so `spread` must return or raise the same
on all of them, to the bit. Therefore the rank that computed a result also continues with the copy that it sent.

A job may need several ranks at once, which compute parts of it and exchange them in collectives. If one of them fails
alone, the others wait in a collective forever. So it ends its process, and with it the replica.
"""

import logging
import math
import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from omni_worker.errors import portable

log = logging.getLogger(__name__)
ALIGNMENT = 64
SHORT_BYTES = 4096
FAILURE_SECONDS = 30.0
"""How long a rank that failed in a job of several ranks waits for the others to fail too."""
_LENGTH_BYTES = 8


class Ranks:
    """This process's place among `size` ranks. A single rank runs all jobs itself.

    store: through which the ranks tell each other about failures
    """

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._jobs_together = 0

    @classmethod
    def join(cls, rank: int, size: int, store: str) -> "Ranks":
        """Join the other ranks through the file `store`, which all of them can write. Every rank calls this once.

        The file must exist until `close`.
        """
        if size == 1:
            return cls(rank, size)
        on_gpu = torch.cuda.is_available()
        file = dist.FileStore(store, size)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=file,
            rank=rank,
            world_size=size,
            device_id=torch.device("cuda:0") if on_gpu else None,
        )
        return cls(rank, size, dist.PrefixStore("failures", file))

    def share(self, count: int, rank: int | None = None, together: int = 1) -> range:
        """The indices of the jobs that a rank (by default this one) runs: consecutive, and evenly distributed.

        together: how many consecutive ranks run each job
        """
        group, groups = (self.rank if rank is None else rank) // together, self.size // together
        return range(count * group // groups, count * (group + 1) // groups)

    def spread(self, jobs: Sequence[Callable[[], Any]], together: int = 1) -> list[Any]:
        """Run each rank's share of the jobs; returns the results of all jobs in their order.

        All ranks must call this with the same jobs. Results must be picklable. Their tensors arrive contiguous, without
        an autograd graph, on the same kind of device. If a job raises on any rank, all ranks raise the error of the
        first such rank.

        together: how many consecutive ranks run each job, in the same collectives. Each of them has a result, and may
            keep a part of the model's state in it; so a rank gets the one of the rank at its own place in that group
        """
        if self.size == together:
            return [self.run_together(job, together) for job in jobs]
        header, tensors = self._run([jobs[i] for i in self.share(len(jobs), together=together)], together)
        headers: list[_Header] = [pickle.loads(data) for data in self._exchange_bytes(pickle.dumps(header))]
        for one in headers:
            if one.error is not None:
                raise one.error
        kinds = sorted({kind for one in headers for kind in one.sizes})  # the same order everywhere
        buffers = {kind: self._exchange(kind, headers, tensors) for kind in kinds}
        return [
            result
            for rank, one in enumerate(headers)
            if rank % together == self.rank % together
            for result in _Unpacker(one, {kind: buffers[kind][rank] for kind in one.sizes}).load()
        ]

    def run_together(self, job: Callable[[], Any], together: int) -> Any:
        """Run a job on this rank. All of its group of `together` consecutive ranks must call this, with the same job.

        Raises what the job raises, if it raises on all of them. If it fails on this rank alone, this process ends.
        """
        self._jobs_together += together > 1
        try:
            return job()
        except Exception as error:
            if together > 1:
                self._require_failure_of_group(together, error)
            raise

    def close(self) -> None:
        """Leave the group. `spread` must not be called after that."""
        if self.size > 1:
            dist.destroy_process_group()

    def _run(self, jobs: Sequence[Callable[[], Any]], together: int) -> tuple["_Header", list[Tensor]]:
        stream = BytesIO()
        packer = _Packer(stream)
        try:
            packer.dump([self.run_together(job, together) for job in jobs])
        except Exception as error:
            sent = portable(error)
            sent.add_note(f"on rank {self.rank} of {self.size}: {''.join(traceback.format_exception(error))}".rstrip())
            return _Header(error=sent), []
        return _Header(stream.getvalue(), packer.places, packer.sizes), packer.tensors

    def _require_failure_of_group(self, together: int, error: Exception) -> None:
        """Wait until all ranks of the group have failed in this job. If one has not, end this process.

        Ranks have equal inputs, so an invalid request fails on all of them, in the same place. What fails on one alone,
        such as its memory, leaves the others in a collective that never ends.
        """
        assert self._store is not None, "a group of several ranks has joined"
        first = self.rank - self.rank % together
        self._store.set(f"{self._jobs_together}/{self.rank}", b"failed")
        try:
            self._store.wait(
                [f"{self._jobs_together}/{rank}" for rank in range(first, first + together)],
                timedelta(seconds=FAILURE_SECONDS),
            )
        except Exception:  # whatever keeps it from hearing of the others
            log.critical(
                "rank %d of %d failed, and the other ranks of its call did not: this replica ends",
                self.rank, self.size, exc_info=error,
            )  # fmt: skip
            logging.shutdown()
            os._exit(1)

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


@contextmanager
def counting_cpus() -> Iterator[None]:
    """Let libraries number the device of a rank where there is none but the CPU. They divide by their number."""
    count = torch.accelerator.device_count
    if count() == 0:
        torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count


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
