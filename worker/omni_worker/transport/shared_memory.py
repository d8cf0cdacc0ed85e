"""A pool of shared memory between one writer and its readers, for large buffers.

The pool is one anonymous memory file (`memfd`) that all ends map and every message reuses. So no segment is created per
message, nothing has a name in /dev/shm, and the kernel frees the pool with the last process, however that ends. The
file is sparse, so unused capacity costs nothing. The writer uses the lowest free place first, so that the same warm
pages are used again. The size is sealed, so no end can remove pages that another end has mapped.

The file starts with flags, one for each reader of each block. The writer sets them, a reader clears its flag with the
last view of the block, and the writer reuses the block once all flags are clear. Nobody waits: if the pool is full,
`put` returns None, and the caller sends the buffer another way.
"""

import contextlib
import fcntl
import mmap
import os
import weakref
from bisect import insort
from typing import NamedTuple

import numpy as np

POOLED_BYTES = 64 << 10
"""Larger buffers go through a pool; smaller ones are cheaper inside the message."""
CAPACITY = 1 << 30
BLOCKS = 1024
ALIGNMENT = 4096
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Block(NamedTuple):
    """A place in a pool. `number` is the index of its flags; `offset` and `size` are in bytes."""

    number: int
    offset: int
    size: int


def create_pool(capacity: int = CAPACITY, name: str = "omni-pool") -> int:
    """Create a pool and return its file descriptor, for `Writer`, `Reader` and the process at the other end."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, capacity)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def flags_size(readers: int) -> int:
    """The size in bytes of the flags at the start of a pool."""
    return -(-BLOCKS * readers // ALIGNMENT) * ALIGNMENT


class _Mapping:
    """The pool as this process maps it. `close` unmaps it now, or with the last view if there are any."""

    def __init__(self, descriptor: int, readers: int) -> None:
        self._readers = readers
        self._map = mmap.mmap(descriptor, 0)

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self._map.close()


class Writer(_Mapping):
    """Writes buffers into a pool. Not thread-safe."""

    def __init__(self, descriptor: int, readers: int) -> None:
        super().__init__(descriptor, readers)
        self._capacity = len(self._map)
        self._first = flags_size(readers)
        self._bytes: np.ndarray | None = np.frombuffer(self._map, np.uint8)
        self._used: list[tuple[int, int, int]] = []  # offset, end and number of the used blocks, by offset
        self._free = list(range(BLOCKS))

    def put(self, data: np.ndarray) -> Block | None:
        """Copy a flat uint8 array into a free place. Returns None if no free place is large enough now."""
        assert self._bytes is not None
        self._reclaim()
        size = data.nbytes
        offset = self._first
        for begin, end, _ in self._used:
            if offset + size <= begin:
                break
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        if not self._free or offset + size > self._capacity:
            return None
        index = self._free.pop()
        self._bytes[offset : offset + size] = data
        self._map[index * self._readers : (index + 1) * self._readers] = b"\1" * self._readers
        insort(self._used, (offset, offset + size, index))
        return Block(index, offset, size)

    def discard(self, block: Block) -> None:
        """Free a block whose message was not sent to any reader."""
        self._map[block.number * self._readers : (block.number + 1) * self._readers] = bytes(self._readers)

    @property
    def blocks_in_use(self) -> int:
        """How many blocks have not been released by all of their readers."""
        self._reclaim()
        return len(self._used)

    def close(self) -> None:
        """Unmap the pool."""
        self._bytes = None
        super().close()

    def _reclaim(self) -> None:
        used = []
        for place in self._used:
            index = place[2]
            if any(self._map[index * self._readers : (index + 1) * self._readers]):
                used.append(place)
            else:
                self._free.append(index)
        self._used = used


class Reader(_Mapping):
    """Reads the buffers of a pool, as reader number `number` of `readers`."""

    def __init__(self, descriptor: int, readers: int, number: int = 0) -> None:
        super().__init__(descriptor, readers)
        self._number = number
        self._views: dict[int, weakref.ref[np.ndarray]] = {}

    def take(self, block: Block) -> np.ndarray:
        """The buffer in `block` as a flat, writable uint8 array.

        If this is the only reader, the array is a view, and the block is released with the last array that is built on
        it. If there are other readers, it is a copy, so that writing to it does not change theirs.

        Raises ValueError if the block is not in the pool, or the writer has put nothing there since it was released.
        """
        number, offset, size = block
        if not (0 <= number < BLOCKS and flags_size(self._readers) <= offset <= offset + size <= len(self._map)):
            raise ValueError(f"{block} is not in this pool")
        if number in self._views or not self._map[number * self._readers + self._number]:
            raise ValueError(f"{block} holds nothing for this reader")
        view = np.frombuffer(self._map, np.uint8, block.size, block.offset)
        if self._readers > 1:
            copy = view.copy()
            self._release(block.number)
            return copy
        self._views[block.number] = weakref.ref(view, lambda _: self._release(block.number))
        return view

    def _release(self, index: int) -> None:
        self._views.pop(index, None)
        with contextlib.suppress(ValueError):  # the pool is closed already
            self._map[index * self._readers + self._number] = 0
