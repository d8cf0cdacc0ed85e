"""Pools shared over a connection: each end offers one for what it sends, once it has something large to send.

The offer names a memory file of the sender's process. Whether the receiver can reach it is found out by reaching it:
it opens `/proc/<pid>/fd/<descriptor>` where the file there bears the offer's random name, and only there. Processes of
other hosts, containers or users find another file or none, and say so; then buffers go on in messages, as those did
that were sent before the answer.

A place in a message names its pool, so that what an earlier connection left unsent is never read from a later pool.
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
LARGEST_POOL = 1 << 30
_numbers = itertools.count(1)


class Offer(msgspec.Struct, frozen=True, tag="pool-offer"):
    """What I send you is to be in this pool: the memory file `name`, which is `descriptor` of process `pid`."""

    pool: int
    pid: int
    descriptor: int
    name: str


class PoolReply(msgspec.Struct, frozen=True, tag="pool-answer"):
    """Whether the pool that was offered can be reached."""

    pool: int
    is_open: bool


class Place(NamedTuple):
    """Where a buffer is: `number`, `offset` and `size` are those of a Block."""

    pool: int
    number: int
    offset: int
    size: int


class Link:
    """One end of a connection: the pool that it fills, and the one that it reads. Neither is there to begin with.

    Used by one thread; what `take` gave may be dropped in any. Without `shares` no pool is offered, nor any opened.
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
        """Whether there is anything to close."""
        return self._writer is not None or self._reader is not None

    @property
    def blocks_held(self) -> int:
        """How many buffers the other end has not let go of yet."""
        return 0 if self._writer is None else self._writer.blocks_held

    def offer(self) -> Offer | None:
        """What to tell the other end before something large is sent for the first time; None ever after."""
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

    def on_answer(self, answer: PoolReply) -> None:
        """The other end's answer to the offer."""
        if self._descriptor is None or answer.pool != self._number:
            return
        self._close_descriptor()
        self._is_open = answer.is_open
        if not answer.is_open:
            assert self._writer is not None
            self._writer.close()
            self._writer = None
            log.info("%s cannot reach this process's memory: arrays go there in messages", self._peer)

    def on_offer(self, offer: Offer) -> PoolReply:
        """Open the other end's pool, instead of the one before, and say whether that was possible."""
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
        """Copy a flat uint8 array into the pool; None where there is none, or no room now."""
        if not self._is_open or self._writer is None or (block := self._writer.put(data)) is None:
            return None
        return Place(self._number, *block)

    def discard(self, place: Place) -> None:
        """Take back what the other end was not told of."""
        if self._writer is not None and place.pool == self._number:
            self._writer.discard(Block(place.number, place.offset, place.size))

    def take(self, place: Place) -> np.ndarray:
        """The buffer there, as a flat uint8 array; the last view of it to go frees the place.

        Raises ValueError where there is none.
        """
        if self._reader is None or place.pool != self._read_number:
            raise ValueError(f"{place} is in no pool of this connection")
        return self._reader.take(Block(place.number, place.offset, place.size))

    def close(self) -> None:
        """Let go of both pools. What was taken remains."""
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
    """The offered file. Nothing else that another process has open is opened: it might block, or act, if it were.

    Raises OSError where it cannot be reached, ValueError where it is not a pool.
    """
    path = f"/proc/{offer.pid:d}/fd/{offer.descriptor:d}"
    _check_name(path, offer)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_name(f"/proc/self/fd/{descriptor:d}", offer)
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise ValueError("its size may change")
        if not ALIGNMENT < (size := os.fstat(descriptor).st_size) <= LARGEST_POOL:
            raise ValueError(f"it has {size} bytes")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_name(path: str, offer: Offer) -> None:
    if not offer.name.startswith("omni-pool-") or str(Path(path).readlink()) != f"/memfd:{offer.name} (deleted)":
        raise ValueError("another process has its number here, or another file has its descriptor's")
