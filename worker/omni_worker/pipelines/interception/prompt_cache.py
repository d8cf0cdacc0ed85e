"""Keeps the results of text encoders, so that a repeated prompt is not encoded again.

A result is kept by everything that it depends on: the model and what the request has changed in it, its adapters with
their scales, the switches of the request's context, and all arguments, tensors by a hash of their contents. It is kept
in the host's memory, so that it takes none of the device's; the least recently used ones make room.

A hit changes no bit. A result that was computed alone can be given to any request. One that was computed in a batch may
differ from that by rounding, so it is only given to requests that could have been in such a batch.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor

from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import (
    IDENTITY_TYPES,
    VALUE_TYPES,
    OpaqueValue,
    describe,
    flat_values,
    map_tensors,
)
from omni_worker.pipelines.components import ENCODE


@dataclass(frozen=True, eq=False)
class PromptKey:
    """What the result of a text encoder's call depends on.

    configs: of the request's adapters in the called model. One that is loaded again has another configuration, and
        while a key exists, no other object has the same id
    """

    content: Hashable
    configs: tuple[Any, ...]

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PromptKey)
            and self.content == other.content
            and all(map(is_, self.configs, other.configs))
        )


@dataclass(frozen=True)
class Entry:
    """A kept result.

    result: a tree, with its tensors in the host's memory
    devices: where each of its tensors was, in their order
    size: in bytes
    is_exact: whether it was computed alone
    """

    result: Any
    devices: tuple[torch.device, ...]
    size: int
    is_exact: bool


class PromptCache:
    """The results of one pipeline's text encoders.

    limit: how many bytes they take at most; 0 keeps none
    size: how many they take now
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[PromptKey, Entry] = OrderedDict()
        self._hits = self._misses = 0

    def key_of(self, call: Call) -> PromptKey | None:
        """What the call's result depends on; None if it cannot be kept."""
        context = call.context
        is_text = call.phase == ENCODE and "input_ids" in call.kwargs
        if not (self.limit and is_text and context.is_comparable) or call.changes is None or context.adapters is None:
            return None
        try:
            arguments = describe((call.args, call.kwargs), _content)
        except OpaqueValue:
            return None
        model = getattr(call.target, "__self__", None)
        known = getattr(model, "peft_config", None) or {}
        configs = tuple(known.get(name) for name, _ in context.adapters)
        return PromptKey((call.model, call.changes, context.signature, context.adapters, arguments), configs)

    def find(self, key: PromptKey | None, needs_exact_bits: bool) -> tuple[Any, ...]:
        """The kept result as the only item, as tensors of its own; empty if there is none."""
        if key is None:
            return ()
        entry = self._entries.get(key)
        if entry is None or (needs_exact_bits and not entry.is_exact):
            self._misses += 1
            return ()
        self._hits += 1
        self._entries.move_to_end(key)
        devices = iter(entry.devices)
        return (copy_of(entry.result, lambda tensor: tensor.to(next(devices), copy=True)),)

    def _add(self, key: PromptKey | None, result: Any, is_exact: bool) -> None:
        """Keep the result of a call. One that was computed alone replaces one that was not."""
        known = None if key is None else self._entries.get(key)
        if key is None or (known is not None and known.is_exact >= is_exact):
            return
        tensors = {id(value): value for value in flat_values(result) if isinstance(value, Tensor)}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size > self.limit:
            return
        self._remove(key)
        devices = tuple(tensor.device for tensor in tensors.values())
        kept = copy_of(result, lambda tensor: tensor.detach().to("cpu", copy=True))
        self._entries[key] = Entry(kept, devices, size, is_exact)
        self.size += size
        while self.size > self.limit:
            self._remove(next(iter(self._entries)))

    def run(self, calls: Sequence[Call], keys: Sequence[PromptKey | None], batches: ProvenBatches) -> list[Any]:
        """Run calls that are not kept, and keep their results. Calls that are equal in everything run only once."""
        places = {key: i for i, key in reversed(list(enumerate(keys)))}
        distinct = sorted(places.values())
        random_states = [calls[i].context.random_state for i in distinct]
        results = dict(zip(distinct, batches.run([calls[i] for i in distinct]), strict=True))
        drew = [not torch.equal(calls[i].context.random_state, random_states[n]) for n, i in enumerate(distinct)]
        if any(drew) or not all(map(_can_be_kept, results.values())):
            if others := [i for i in range(len(calls)) if i not in results]:
                results.update(zip(others, batches.run([calls[i] for i in others]), strict=True))
            return [results[i] for i in range(len(calls))]
        is_exact = len(distinct) == 1 and (batches.processes == 1 or calls[0].rows == 1)
        for i in distinct:
            self._add(keys[i], results[i], is_exact)
        return [results[i] if i in results else copy_of(results[places[key]]) for i, key in enumerate(keys)]

    def stats(self) -> dict[str, int]:
        """Counters and sizes for metrics."""
        return {"prompt_hits": self._hits, "prompt_misses": self._misses, "prompt_cache_bytes": self.size}

    def _remove(self, key: PromptKey) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.size -= entry.size


def _content(name: str, tensor: Tensor) -> Hashable:
    content = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return name, tensor.shape, tensor.stride(), tensor.dtype, str(tensor.device), hashlib.sha256(content.data).digest()


def _can_be_kept(result: Any) -> bool:
    """Whether all in a result is known: tensors that a copy keeps as they are, and values that never change."""
    return all(
        not value.requires_grad and torch.empty_like(value, device="meta").stride() == value.stride()
        if isinstance(value, Tensor)
        else isinstance(value, VALUE_TYPES + IDENTITY_TYPES)
        for value in flat_values(result)
    )


def copy_of(tree: Any, copy_tensor: Callable[[Tensor], Tensor] = torch.clone) -> Any:
    """A copy of a tree and of the objects in it. A tensor that is in it twice is in the copy twice, too."""
    copies: dict[int, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = copy_tensor(tensor)
        return copies[id(tensor)]

    return map_tensors(tree, copied)
