"""A pool of shared memory between one writer and its readers: large buffers cross without a socket.

The pool is one anonymous memory file (`memfd`), mapped by both ends and reused by every message: no segment is made per
message, nothing has a name in /dev/shm, and the kernel frees all of it with the last process, however that ends. It is
sparse, so that its capacity costs nothing until it is used, and the lowest free place is taken first, so that the same
warm pages serve again and again. Its size is sealed: neither end can have the other's pages vanish under it.

The first bytes are flags, one for each reader of each block: the writer sets them, a reader clears its own when the
last view of the block is gone, and the writer takes a block back once all are clear. So nobody waits: where the pool is
full, `put` says so, and the caller sends the buffer another way.
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
"""Larger buffers cross through a pool; smaller ones are cheaper in the message."""
CAPACITY = 1 << 30
BLOCKS = 1024
ALIGNMENT = 4096
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Block(NamedTuple):
    """A place in a pool: the `number` of its flags, `offset` and `size` in bytes."""

    number: int
    offset: int
    size: int


def create_pool(capacity: int = CAPACITY, name: str = "omni-pool") -> int:
    """A new pool's file descriptor, for `Writer`, `Reader` and the process that gets the other end."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, capacity)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def flags_size(readers: int) -> int:
    """How many bytes at a pool's beginning are for its flags."""
    return -(-BLOCKS * readers // ALIGNMENT) * ALIGNMENT


class _Mapping:
    """The pool as this process sees it. `close` unmaps it, or leaves that to the last view."""

    def __init__(self, descriptor: int, readers: int) -> None:
        self._readers = readers
        self._map = mmap.mmap(descriptor, 0)

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self._map.close()


class Writer(_Mapping):
    """The end that puts buffers in. Not thread-safe."""

    def __init__(self, descriptor: int, readers: int) -> None:
        super().__init__(descriptor, readers)
        self._capacity = len(self._map)
        self._first = flags_size(readers)
        self._bytes: np.ndarray | None = np.frombuffer(self._map, np.uint8)
        self._held: list[tuple[int, int, int]] = []  # offset, end, index: in the order of their places
        self._free = list(range(BLOCKS))

    def put(self, data: np.ndarray) -> Block | None:
        """Copy a flat uint8 array into a free place; None where none is large enough now."""
        assert self._bytes is not None
        self._take_back()
        size = data.nbytes
        offset = self._first
        for begin, end, _ in self._held:
            if offset + size <= begin:
                break
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        if not self._free or offset + size > self._capacity:
            return None
        index = self._free.pop()
        self._bytes[offset : offset + size] = data
        self._map[index * self._readers : (index + 1) * self._readers] = b"\1" * self._readers
        insort(self._held, (offset, offset + size, index))
        return Block(index, offset, size)

    def discard(self, block: Block) -> None:
        """Take back a block that no reader was told of."""
        self._map[block.number * self._readers : (block.number + 1) * self._readers] = bytes(self._readers)

    @property
    def blocks_in_use(self) -> int:
        """How many blocks some reader has not released yet."""
        self._take_back()
        return len(self._held)

    def close(self) -> None:
        """Unmap the pool."""
        self._bytes = None
        super().close()

    def _take_back(self) -> None:
        held = []
        for place in self._held:
            index = place[2]
            if any(self._map[index * self._readers : (index + 1) * self._readers]):
                held.append(place)
            else:
                self._free.append(index)
        self._held = held


class Reader(_Mapping):
    """Reader number `number` of `readers`."""

    def __init__(self, descriptor: int, readers: int, number: int = 0) -> None:
        super().__init__(descriptor, readers)
        self._number = number
        self._views: dict[int, weakref.ref[np.ndarray]] = {}

    def take(self, block: Block) -> np.ndarray:
        """The buffer in `block` as a flat uint8 array, to keep and to write to.

        Where this is the only reader, it is a view, and whatever is built on it holds the block: the last to go
        releases it. Where there are others it is a copy, since one's writing would reach them all.

        Raises ValueError for a place that is none, or that the writer has not put anything into since it was released.
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
        with contextlib.suppress(ValueError):  # the pool was closed before
            self._map[index * self._readers + self._number] = 0
