"""Shared memory for one connection. Each end offers the other a pool, as soon as it has something large to send.

The offer names a memory file of the sender's process. The receiver tries to open it at `/proc/<pid>/fd/<descriptor>`
and accepts it only if the file has the offer's random name. Processes on other hosts, in other containers or of other
users find another file or none, and decline; arrays then travel in messages, as they do before the reply arrives.

A place in a message names its pool, so a message left over from an earlier connection is never read from a later pool.
"""

import fcntl
import itertools
import logging
import os
import secrets
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from omni_worker.transport.shared_memory import ALIGNMENT, SEALS, Block, Reader, Writer, create_pool

log = logging.getLogger(__name__)
CAPACITY = 128 << 20
MAX_POOL_BYTES = 1 << 30
_numbers = itertools.count(1)


class Offer(msgspec.Struct, frozen=True, tag="pool-offer"):
    """Offers a pool for the sender's arrays: the memory file `name`, which is `descriptor` of process `pid`."""

    pool: int
    pid: int
    descriptor: int
    name: str


class PoolReply(msgspec.Struct, frozen=True, tag="pool-answer"):
    """Says whether the receiver can reach the offered pool."""

    pool: int
    is_open: bool


class Place(NamedTuple):
    """A buffer in shared memory: `number`, `offset` and `size` (bytes) are the fields of a Block."""

    pool: int
    number: int
    offset: int
    size: int


class Link:
    """One end of a connection: the pool that it writes and the pool that it reads, once they exist.

    Use it from one thread; arrays from `take` may be dropped in any. With `shares=False` it offers and opens no pool.
    """

    def __init__(self, peer: str, shares: bool = True, capacity: int = CAPACITY) -> None:
        self._peer = peer
        self._capacity = capacity
        self._shares = self._may_offer = shares
        self._number = next(_numbers)
        self._descriptor: int | None = None
        self._writer: Writer | None = None
        self._is_open = False
        self._read_number = 0
        self._reader: Reader | None = None

    @property
    def has_pools(self) -> bool:
        """Whether a pool exists in either direction."""
        return self._writer is not None or self._reader is not None

    @property
    def blocks_in_use(self) -> int:
        """How many buffers the other end has not released yet."""
        return 0 if self._writer is None else self._writer.blocks_in_use

    def offer(self) -> Offer | None:
        """The offer to send with the first large message; None after the first call, or if no pool can be created."""
        if not self._may_offer:
            return None
        self._may_offer = False
        name = f"omni-pool-{secrets.token_hex(16)}"
        try:
            self._descriptor = create_pool(self._capacity, name)
            self._writer = Writer(self._descriptor, readers=1)
        except OSError as error:  # no memory files here, or too many open ones
            log.warning("what goes to %s is not shared: %s", self._peer, error)
            self._close_descriptor()
            return None
        return Offer(self._number, os.getpid(), self._descriptor, name)

    def on_reply(self, reply: PoolReply) -> None:
        """Handle the other end's reply: use the pool, or close it if it cannot be reached."""
        if self._descriptor is None or reply.pool != self._number:
            return
        self._close_descriptor()
        self._is_open = reply.is_open
        if not reply.is_open:
            assert self._writer is not None
            self._writer.close()
            self._writer = None
            log.info("%s cannot reach this process's memory: arrays go there in messages", self._peer)

    def on_offer(self, offer: Offer) -> PoolReply:
        """Open the other end's pool in place of an earlier one, and return the reply to send."""
        if not self._shares:
            return PoolReply(offer.pool, False)
        try:
            descriptor = _open(offer)
        except (OSError, ValueError) as error:
            log.info("the memory of %s cannot be reached, arrays come in messages: %s", self._peer, error)
            return PoolReply(offer.pool, False)
        try:
            reader = Reader(descriptor, readers=1)
        except (OSError, ValueError) as error:
            log.warning("the memory of %s cannot be mapped: %s", self._peer, error)
            return PoolReply(offer.pool, False)
        finally:
            os.close(descriptor)
        if self._reader is not None:
            self._reader.close()
        self._read_number, self._reader = offer.pool, reader
        return PoolReply(offer.pool, True)

    def put(self, data: np.ndarray) -> Place | None:
        """Copy a flat uint8 array into the pool. Returns None if there is no pool, or no room in it now."""
        if not self._is_open or self._writer is None or (block := self._writer.put(data)) is None:
            return None
        return Place(self._number, *block)

    def discard(self, place: Place) -> None:
        """Release a place whose message was not sent."""
        if self._writer is not None and place.pool == self._number:
            self._writer.discard(Block(place.number, place.offset, place.size))

    def take(self, place: Place) -> np.ndarray:
        """The buffer as a flat uint8 array, without a copy. The place is released with the last view of the array.

        Raises ValueError if the place is not in this connection's pool, or is empty.
        """
        if self._reader is None or place.pool != self._read_number:
            raise ValueError(f"{place} is in no pool of this connection")
        return self._reader.take(Block(place.number, place.offset, place.size))

    def close(self) -> None:
        """Close both pools. Arrays that were taken stay valid."""
        self._close_descriptor()
        for pool in (self._writer, self._reader):
            if pool is not None:
                pool.close()
        self._writer = self._reader = None
        self._is_open = self._may_offer = self._shares = False

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(offer: Offer) -> int:
    """Open the offered file. Checks its name first, because opening any other file might block or have side effects.

    Raises OSError if the file cannot be opened, ValueError if it is not a pool.
    """
    path = f"/proc/{offer.pid:d}/fd/{offer.descriptor:d}"
    _check_name(path, offer)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_name(f"/proc/self/fd/{descriptor:d}", offer)
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise ValueError("its size may change")
        if not ALIGNMENT < (size := os.fstat(descriptor).st_size) <= MAX_POOL_BYTES:
            raise ValueError(f"it has {size} bytes")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_name(path: str, offer: Offer) -> None:
    if not offer.name.startswith("omni-pool-") or str(Path(path).readlink()) != f"/memfd:{offer.name} (deleted)":
        raise ValueError("another process has its number here, or another file has its descriptor's")
