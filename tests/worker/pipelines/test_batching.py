"""Merging calls, taking answers apart, and trusting no batch before it is proven."""

import pytest
import torch

from omni_worker.pipelines.batching import Call, Lists, ProvenBatches, agree, run_merged


class Denoiser:
    """Counts its calls; `answer` makes the output from (hidden_states, timestep, extra)."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = 0

    def __call__(self, hidden_states, timestep, extra=None, return_dict=False):
        self.calls += 1
        return (self.answer(hidden_states, timestep, extra),)


def call(denoiser, value, rows=1, timestep=None, extra=None):
    hidden = torch.full((rows, 4), float(value))
    return Call(
        "denoise",
        denoiser,
        (hidden,),
        {"timestep": torch.tensor(float(value)) if timestep is None else timestep, "extra": extra},
    )


def good(hidden, timestep, extra):
    return hidden * 2 + timestep.reshape(-1, 1)


def test_calls_of_one_key_run_as_one_and_each_gets_its_own():
    denoiser = Denoiser(good)
    calls = [call(denoiser, i) for i in range(4)]
    assert len({one.key for one in calls}) == 1
    answers = run_merged(calls)
    assert denoiser.calls == 1
    assert [float(answer[0][0, 0]) for answer in answers] == [0.0, 3.0, 6.0, 9.0]


def test_scalar_timesteps_of_doubled_batches_are_spread_over_the_rows():
    denoiser = Denoiser(good)
    answers = run_merged([call(denoiser, i, rows=2) for i in range(3)])
    assert [tuple(answer[0].shape) for answer in answers] == [(2, 4)] * 3
    assert [float(answer[0][1, 0]) for answer in answers] == [0.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"rows": 1}, {"rows": 2}, id="another number of rows"),
        pytest.param({"extra": "a"}, {"extra": "b"}, id="another argument that is no tensor"),
        pytest.param({"extra": torch.zeros(1, 3)}, {"extra": torch.zeros(1, 5)}, id="another length of prompt"),
        pytest.param({"extra": torch.zeros(1)}, {"extra": torch.zeros(1, dtype=torch.int64)}, id="another dtype"),
        pytest.param({"extra": [1]}, {"extra": (1,)}, id="another structure"),
        pytest.param({"extra": {"a": 1}}, {"extra": {"b": 1}}, id="another name"),
    ],
)
def test_calls_that_cannot_be_merged_have_other_keys(one, other):
    denoiser = Denoiser(good)
    assert call(denoiser, 0, **one).key != call(denoiser, 0, **other).key


def test_lists_as_long_as_the_batch_are_joined():
    denoiser = Denoiser(lambda hidden, timestep, extra: hidden * len(extra))
    answers = run_merged([call(denoiser, 1, extra=[(1, 4, 4)]), call(denoiser, 1, extra=[(1, 4, 4)])], Lists.JOINED)
    assert float(answers[0][0][0, 0]) == 2.0


def test_a_key_is_proven_once_and_then_shares_its_calls():
    denoiser, batches = Denoiser(good), ProvenBatches()
    for _ in range(3):
        answers = batches.run([call(denoiser, i) for i in range(3)])
        assert [float(answer[0][0, 0]) for answer in answers] == [0.0, 3.0, 6.0]
    assert denoiser.calls == (3 + 1) + 1 + 1
    assert (batches.batched_calls, batches.single_calls) == (6, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda h, t, e: h + h.mean(), id="rows that see each other"),
        pytest.param(lambda h, t, e: h.cumsum(0), id="frames folded into rows"),
        pytest.param(lambda h, t, e: h.sum(0, keepdim=True), id="an answer with fewer rows"),
        pytest.param(lambda h, t, e: h / (h.shape[0] == 1), id="infinite when batched"),
    ],
)
def test_a_batch_that_would_be_wrong_runs_alone_for_ever(wrong):
    denoiser, batches = Denoiser(wrong), ProvenBatches()
    for _ in range(3):
        alone = [call(denoiser, i + 1).run()[0] for i in range(3)]
        together = batches.run([call(denoiser, i + 1) for i in range(3)])
        assert all(torch.equal(a, b[0]) for a, b in zip(alone, together, strict=True))
    assert list(batches.verdicts.values()) == [None]


def test_shared_tensors_of_other_contents_are_not_put_together():
    denoiser, batches = Denoiser(lambda h, t, e: h + e.sum()), ProvenBatches()
    table = torch.arange(3.0)
    batches.run([call(denoiser, i, extra=table) for i in range(2)])
    answers = batches.run([call(denoiser, 0, extra=table), call(denoiser, 0, extra=table * 2)])
    assert [float(answer[0][0, 0]) for answer in answers] == [3.0, 6.0]


def test_a_model_that_refuses_a_batch_runs_alone():
    def picky(hidden, timestep, extra):
        if hidden.shape[0] > 1:
            raise RuntimeError("one at a time")
        return hidden

    batches = ProvenBatches()
    assert len(batches.run([call(Denoiser(picky), i) for i in range(2)])) == 2


def test_answers_agree_up_to_rounding_and_no_further():
    answer = torch.randn(2, 8)
    assert agree((answer,), (answer * (1 + 1e-6),))
    assert not agree((answer,), (answer * 1.01,))
    assert not agree((answer,), (torch.full_like(answer, float("nan")),))
    assert not agree(answer, answer[:1])
