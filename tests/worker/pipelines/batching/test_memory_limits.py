"""Batches that do not fit into memory run in parts, and their size is remembered with their shape."""

import weakref

import pytest
import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.collators import Collator
from omni_worker.pipelines.batching.comparing import agree
from tests.worker.pipelines.batching.calls import Denoiser, call, good


class Memory:
    """A denoiser that has room for so many elements at a time."""

    def __init__(self, room):
        self.room, self.failures, self.sizes, self.held = room, 0, [], []

    def __call__(self, hidden, timestep, extra):
        assert all(activations() is None for activations in self.held), "what has failed is still in memory"
        activations = torch.empty(hidden.shape)
        elements = hidden.numel() + (extra.numel() if extra is not None else 0)
        if elements > self.room:
            self.failures += 1
            self.held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("no room")
        self.sizes.append(len(hidden))
        return good(hidden, timestep, extra)


def test_a_batch_that_does_not_fit_runs_in_the_largest_parts_that_do():
    memory = Memory(room=4 * 4)
    denoiser, batches = Denoiser(memory), ProvenBatches()
    calls = [call(denoiser, i) for i in range(16)]
    for _ in range(3):
        results = batches.run(calls)
        assert all(agree(one.copy().run(), result) for one, result in zip(calls, results, strict=True))
    assert max(memory.sizes) == 4
    failures = memory.failures
    batches.run(calls)
    batches.run(calls[:9])
    assert memory.failures == failures, "remembered"


def test_long_sequences_that_do_not_fit_leave_large_batches_to_short_ones():
    memory = Memory(room=8 * (4 + 2))
    denoiser, collator = Denoiser(memory), Collator(padded=frozenset({"extra"}))

    def calls(length):
        return [call(denoiser, i, extra=torch.randn(1, length), collator=collator) for i in range(8)]

    batches = ProvenBatches()
    batches.run(calls(20))
    assert max(memory.sizes) == 2
    memory.sizes.clear()
    batches.run(calls(2))
    batches.run(calls(2))
    assert max(memory.sizes) == 8


def test_a_call_that_does_not_fit_alone_fails():
    with pytest.raises(torch.OutOfMemoryError):
        ProvenBatches().run([call(Denoiser(Memory(room=1)), i) for i in range(2)])
