"""Verdicts are audited while they are used, and revoked if they are wrong."""

import pytest
import torch

from omni_worker.pipelines.batching import audits
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.comparing import agree
from tests.worker.pipelines.batching.calls import Denoiser, call, good


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(audits, "EVERY_BATCHES", 5)


def turning_wrong(hidden, timestep, extra):
    """Right for late timesteps; below 1, every row gets the timestep of the first."""
    steps = timestep.reshape(-1, 1).expand(len(hidden), 1)
    return hidden * 2 + (steps if timestep.max() >= 1 else steps[:1])


def at(denoiser, *timesteps):
    return [call(denoiser, i, timestep=torch.tensor([value])) for i, value in enumerate(timesteps)]


def test_a_verdict_that_turns_out_wrong_is_revoked_and_from_then_on_all_results_are_right():
    denoiser, batches = Denoiser(turning_wrong), ProvenBatches()
    for _ in range(3):
        batches.run(at(denoiser, 5.0, 9.0, 7.0))
    assert batches.stats()["keys_batched"] == 1
    late = at(denoiser, 0.1, 0.9, 0.5)
    for _ in range(4 * audits.EVERY_BATCHES):  # the first call's result is right, so its audit finds nothing
        batches.run(late)
    stats = batches.stats()
    assert (stats["verdicts_revoked"], stats["keys_batched"], stats["keys_alone"]) == (1, 0, 1)
    assert "when they were audited" in batches.reasons["model"]
    for one, result in zip(late, batches.run(late), strict=True):
        assert agree(one.copy().run(), result)
    assert isinstance(batches.key_of(late[0]).variant, str), "it shares no batch any more"


def test_the_results_of_the_audited_batch_itself_are_right():
    denoiser, batches = Denoiser(turning_wrong), ProvenBatches()
    batches.run(at(denoiser, 5.0, 9.0))
    late = at(denoiser, 0.1, 0.9)
    while not batches.stats()["verdicts_revoked"]:
        results = batches.run(late)
    for one, result in zip(late, results, strict=True):
        assert agree(one.copy().run(), result)


def test_a_right_verdict_stays_and_its_audits_cost_one_call_each():
    denoiser, batches = Denoiser(good), ProvenBatches()
    calls = at(denoiser, 0.1, 0.5, 0.9)
    batches.run(calls)
    before = denoiser.calls
    for _ in range(20):
        batches.run(calls)
    assert denoiser.calls - before == 20 + 20 // audits.EVERY_BATCHES
    stats = batches.stats()
    assert (stats["audits"], stats["verdicts_revoked"]) == (20 // audits.EVERY_BATCHES, 0)


def test_a_poisoned_request_revokes_nothing():
    denoiser, batches = Denoiser(good), ProvenBatches()
    batches.run(at(denoiser, 0.1, 0.5))
    poisoned = at(denoiser, float("nan"), 0.5)
    for _ in range(4 * audits.EVERY_BATCHES):
        batches.run(poisoned)
    assert batches.stats()["verdicts_revoked"] == 0
