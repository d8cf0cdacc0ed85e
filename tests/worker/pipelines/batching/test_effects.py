"""Arguments that are objects holding tensors: merged, split, written to, and proven like containers."""

import dataclasses
import threading

import pytest
import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.structure import OpaqueValue
from tests.worker.pipelines.batching.calls import Denoiser, assert_right, call


class Layer:
    """What a model remembers of a layer, in attributes."""

    def __init__(self):
        self.key = None
        self.count = 0


class Slots:
    __slots__ = ("key",)

    def __init__(self, key):
        self.key = key


@dataclasses.dataclass(frozen=True)
class Record:
    key: torch.Tensor
    name: str = "record"


class Cache:
    """Layers, of which one is also the newest."""

    def __init__(self):
        self.layers = [Layer(), Layer()]
        self.newest = self.layers[0]
        self.by_name = {}


def masked(value):
    """A function that closes over a tensor and a number."""
    scale = 2.0

    def mask(hidden):
        return hidden * scale + value

    return mask


def layers(i):
    """Caches of two layers, in which keys and values come before the rows."""
    return {layer: {"cache": torch.full((2, 1, 4), float(i + layer))} for layer in range(2)}


READ = [
    pytest.param(lambda h, t, e: h + e[0]["cache"][0] + e[1]["cache"][1], layers, id="caches of layers"),
    pytest.param(lambda h, t, e: h + e.key, lambda i: Record(torch.full((1, 4), float(i))), id="a frozen dataclass"),
    pytest.param(lambda h, t, e: h + e.key, lambda i: Slots(torch.full((1, 4), float(i))), id="slots"),
    pytest.param(lambda h, t, e: e(h), lambda i: masked(torch.full((1, 4), float(i))), id="a function's own rows"),
    pytest.param(lambda h, t, e: e(h), lambda i: masked(torch.arange(4.0)), id="a function's common table"),
]


@pytest.mark.parametrize(("answer", "extra"), READ)
def test_calls_with_objects_share_a_batch(answer, extra):
    assert_right(ProvenBatches(), [call(Denoiser(answer), i, extra=extra(i)) for i in range(3)], share=True)


def extract(hidden, timestep, cache):
    """Write as caches do: tensors of a call's own, a number, a list, a mapping, and another layer as the newest."""
    layer = cache.layers[1]
    layer.key = hidden * 3 if layer.key is None else torch.cat([layer.key, hidden], 1)
    layer.count += 1
    cache.newest = layer
    cache.layers.append(Layer())
    cache.by_name["hidden"] = hidden + 1
    return hidden + timestep.reshape(-1, 1)


def contents(cache):
    layer = cache.layers[1]
    return len(cache.layers), layer.count, cache.newest is layer, layer.key, cache.by_name["hidden"]


def test_what_a_batch_writes_reaches_each_calls_own_cache():
    denoiser, batches = Denoiser(extract), ProvenBatches()
    for _ in range(3):
        before = batches.batched_calls
        together = [call(denoiser, i, extra=Cache()) for i in range(3)]
        alone = [call(denoiser, i, extra=Cache()) for i in range(3)]
        for _ in range(2):
            answers = batches.run(together)
            for one, other, answer in zip(together, alone, answers, strict=True):
                torch.testing.assert_close(answer, other.run())
                *own, key, hidden = contents(one.kwargs["extra"])
                *expected, expected_key, expected_hidden = contents(other.kwargs["extra"])
                assert own == expected
                torch.testing.assert_close(key, expected_key)
                torch.testing.assert_close(hidden, expected_hidden)
                assert key.untyped_storage().nbytes() == expected_key.untyped_storage().nbytes(), "keeps the batch"
    assert batches.batched_calls - before == 6


def test_a_call_that_returns_its_cache_gets_its_own():
    def returns(hidden, timestep, cache):
        cache.layers[0].key = hidden + 1
        return {"sample": hidden * 2, "cache": cache}

    denoiser, batches = Denoiser(returns), ProvenBatches()
    for _ in range(3):
        before = batches.batched_calls
        calls = [call(denoiser, i, extra=Cache()) for i in range(3)]
        for one, (answer,) in zip(calls, batches.run(calls), strict=True):
            assert answer["cache"] is one.kwargs["extra"]
            torch.testing.assert_close(answer["cache"].layers[0].key, one.kwargs["hidden_states"] + 1)
    assert batches.batched_calls - before == 3


def test_a_batch_that_writes_something_else_than_its_calls_is_refuted():
    def first_only(hidden, timestep, cache):
        cache.layers[0].key = hidden[:1].expand(len(hidden), -1) * 1.0
        return hidden

    batches = ProvenBatches()
    calls = [call(Denoiser(first_only), i, extra=Cache()) for i in range(3)]
    batches.run(calls)
    assert batches.batched_calls == 0
    for one in calls:
        torch.testing.assert_close(one.kwargs["extra"].layers[0].key, one.kwargs["hidden_states"])


def test_a_call_that_fails_has_written_nothing():
    def fails(hidden, timestep, cache):
        cache.layers[0].count += 1
        if timestep > 1:
            raise RuntimeError("too late")
        return hidden

    calls = [call(Denoiser(fails), i, extra=Cache()) for i in range(3)]
    with pytest.raises(RuntimeError, match="too late"):
        ProvenBatches().run(calls)
    assert [one.kwargs["extra"].layers[0].count for one in calls] == [0, 0, 0]


class Members(set):
    """It has attributes of its own, beside its members."""


@pytest.mark.parametrize("value", [threading.Lock(), {1, 2}, Members()], ids=lambda value: type(value).__name__)
def test_objects_that_keep_something_out_of_sight_stay_opaque(value):
    holder = Record(torch.ones(1, 4), name=value)
    with pytest.raises(OpaqueValue, match=r"extra\.name is a"):
        _ = call(Denoiser(extract), 1, extra=holder).signature


def test_objects_that_hold_each_other_are_walked_once():
    one, other = Layer(), Layer()
    one.key, other.key = other, one
    pair = call(Denoiser(lambda h, t, e: h), 1, extra=one)
    copied = pair.copy().kwargs["extra"]
    assert pair.signature == pair.copy().signature
    assert copied is not one
    assert copied.key.key is copied
