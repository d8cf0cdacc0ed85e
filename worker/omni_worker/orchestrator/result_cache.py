"""Keeps the results of requests, so that a repeated one, with the same seed, needs no replica.

A result depends on the model, which a head never changes while it runs, and on the request's parameters. Results are
kept by all of these that matter, and by whose they are: nobody can learn from the time of an answer what others asked.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from omni_worker.orchestrator.handover import TEXT
from omni_worker.requests import GenerationRequest, GenerationResult

OVERHEAD_BYTES = 1024
"""What an entry takes beside its arrays and its text."""


class ResultCache:
    """The results of a head.

    limit: how many bytes they take at most; 0 keeps none
    size: how many they take now
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.hits = self.misses = 0
        self._entries: OrderedDict[bytes, tuple[GenerationResult, int]] = OrderedDict()

    def key_of(self, request: GenerationRequest) -> bytes | None:
        """What the result of a request depends on; None if it cannot be kept.

        An adapter can be replaced by another one of its name while it runs, so requests that select any are left out.
        """
        if not self.limit or request.repeatable_by is None or TEXT in request.outputs or request.params.loras:
            return None
        # These change when the result comes, and not the result.
        params = replace(request.params, priority=0, deadline_seconds=None, preview_every=0)
        content = (request.repeatable_by, sorted(request.outputs), params)
        return hashlib.sha256(_ENCODER.encode(content)).digest()

    def find(self, key: bytes | None) -> GenerationResult | None:
        """The kept result; None if there is none."""
        if key is None:
            return None
        if key not in self._entries:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def keep(self, key: bytes | None, result: GenerationResult) -> None:
        """Keep a result. The least recently used ones make room; one larger than the limit is not kept."""
        if key is None or (size := _size_of(result)) > self.limit:
            return
        if previous := self._entries.pop(key, None):
            self.size -= previous[1]
        self._entries[key] = result, size
        self.size += size
        while self.size > self.limit:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size -= freed


def _size_of(result: GenerationResult) -> int:
    text = len(result.completion.written.text) * 4 if result.completion else 0
    return OVERHEAD_BYTES + text + sum(array.nbytes for array in _arrays(result))


def _arrays(result: GenerationResult) -> Iterator[np.ndarray]:
    yield from result.images
    if result.sound is not None:
        yield result.sound.samples


def _encoded(value: Any) -> Any:
    """What msgspec does not know: arrays."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, np.ascontiguousarray(value).data
    raise TypeError(f"a request's parameters contain a {type(value).__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encoded, order="deterministic")
