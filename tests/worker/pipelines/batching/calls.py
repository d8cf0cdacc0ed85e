"""Model calls for tests, and models that are a single function."""

import torch

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import agree
from omni_worker.pipelines.batching.keys import KeyTable
from omni_worker.pipelines.components import DENOISE
from omni_worker.pipelines.request_context import RequestContext


class Denoiser:
    """Counts its calls; `answer` makes the output from its arguments."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = 0

    def __call__(self, hidden_states, timestep, extra=None):
        self.calls += 1
        return (self.answer(hidden_states, timestep, extra),)


def call(denoiser, value, rows=1, timestep=None, extra=None, collator=None, phase=DENOISE, **kwargs):
    torch.manual_seed(int(value))
    kwargs = {
        "hidden_states": torch.randn(rows, 4),
        "timestep": torch.tensor(float(value)) if timestep is None else timestep,
        "extra": extra,
        **kwargs,
    }
    return Call(phase, "model", denoiser, (), kwargs, RequestContext(f"r{value}"), collator)


def good(hidden, timestep, extra):
    return hidden * 2 + timestep.reshape(-1, 1)


def key(one):
    return KeyTable().of(one)


def assert_right(batches, calls, share):
    """Three times, the batch gives what its calls give alone; `share`: whether the last time was one call."""
    for _ in range(3):
        before = batches.batched_calls
        together = batches.run(calls)
        shared = batches.batched_calls - before
        for one, answer in zip(calls, together, strict=True):
            assert agree(one.copy().run(), answer)
    assert (shared == len(calls)) is share
