"""The random state of a request, on every device."""

import torch

from omni_worker.device import random_state
from omni_worker.pipelines.request_context import RequestContext


def draw(generators):
    return [float(torch.rand(1, generator=generator)) for generator in generators]


def test_each_request_draws_its_own_numbers_from_the_generators_of_all_devices(monkeypatch):
    generators = [torch.Generator().manual_seed(5), torch.default_generator]
    monkeypatch.setattr(random_state, "_device_generators", lambda: generators[:1])
    alone = {}
    for seed in (1, 2):
        context = RequestContext("alone", seed)
        with context.active():
            alone[seed] = [draw(generators) for _ in range(3)]
    before = random_state.random_state()
    contexts = {seed: RequestContext(str(seed), seed) for seed in (1, 2)}
    drawn = {1: [], 2: []}
    for _ in range(3):
        for seed, context in contexts.items():
            with context.active():
                drawn[seed].append(draw(generators))
    assert drawn == alone
    assert alone[1] != alone[2]
    assert torch.equal(random_state.random_state(), before), "the caller's state is as it was"


def test_the_state_is_that_of_torchs_manual_seed():
    expected = torch.get_rng_state()
    context = RequestContext("0", 3)
    with context.active():
        drawn = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), expected)
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(3)))


def test_a_default_dtype_is_the_requests_own():
    one, other = RequestContext("1"), RequestContext("2")
    with one.active():
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32
    assert one.signature != other.signature
    with one.active():
        assert torch.zeros(1).dtype == torch.float64
        torch.set_default_dtype(torch.float32)
    assert one.signature == other.signature
