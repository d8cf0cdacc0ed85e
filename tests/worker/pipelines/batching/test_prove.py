"""No batch is trusted before it is proven."""

import pytest
import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from tests.worker.pipelines.batching.calls import Denoiser, assert_right, call, good


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda h, t, e: h + h.mean(), id="rows that see each other"),
        pytest.param(lambda h, t, e: h.cumsum(0), id="rows that see those before"),
        pytest.param(lambda h, t, e: h.sum(0, keepdim=True), id="an answer with fewer rows"),
        pytest.param(lambda h, t, e: h / (h.shape[0] == 1), id="infinite when batched"),
        pytest.param(lambda h, t, e: h + torch.randn(1), id="random numbers"),
        pytest.param(lambda h, t, e: h if len(h) == 1 else 1 / 0, id="a model that refuses a batch"),
    ],
)
def test_a_batch_that_would_be_wrong_runs_alone_from_then_on(wrong):
    batches = ProvenBatches()
    calls = [call(Denoiser(wrong), i + 1) for i in range(3)]
    for _ in range(3):
        alone = [one.copy() for one in calls]
        for one in alone:
            one.context.random_state = torch.Generator().manual_seed(3).get_state()
        expected = [one.run()[0] for one in alone]
        for one in calls:
            one.context.random_state = torch.Generator().manual_seed(3).get_state()
        assert all(torch.equal(a, b[0]) for a, b in zip(expected, batches.run(calls), strict=True))
    assert batches.batched_calls == 0
    assert batches.key_of(calls[0]) != batches.key_of(calls[1])


def test_tensors_that_are_equal_only_in_the_first_batch_are_compared_in_later_ones():
    """All requests begin with the same timestep: that must not hide a model that takes the first one's for all."""
    takes_the_first = Denoiser(lambda h, t, e: h * t.reshape(-1)[0])
    batches, same = ProvenBatches(), torch.tensor(3.0)
    assert_right(batches, [call(takes_the_first, i, timestep=same) for i in range(3)], share=True)
    assert_right(batches, [call(takes_the_first, i) for i in range(1, 4)], share=False)
    assert_right(batches, [call(takes_the_first, i, timestep=same) for i in range(3)], share=True)


def test_a_size_that_is_new_is_compared_too():
    fails_at_four = Denoiser(lambda h, t, e: h * (2.0 if len(h) == 4 else 1.0))
    batches = ProvenBatches()
    assert_right(batches, [call(fails_at_four, i) for i in range(3)], share=True)
    assert_right(batches, [call(fails_at_four, i) for i in range(4)], share=False)


def test_a_poisoned_call_proves_nothing_about_its_neighbours():
    batches = ProvenBatches()
    denoiser = Denoiser(good)
    poisoned = call(denoiser, 9, timestep=torch.tensor(float("nan")))
    batches.run([call(denoiser, 0), poisoned])
    assert_right(batches, [call(denoiser, i) for i in range(2)], share=True)


def test_a_model_that_writes_into_its_arguments_runs_alone():
    def remembers(hidden, timestep, extra):
        extra += 1.0
        return hidden * extra.sum()

    batches = ProvenBatches()
    calls = [call(Denoiser(remembers), i, extra=torch.zeros(1, 4)) for i in range(2)]
    for i in range(3):
        batches.run(calls)
        assert all(float(one.kwargs["extra"].sum()) == 4.0 * (i + 1) for one in calls)


def test_generators_are_left_as_their_own_request_would_leave_them():
    denoiser = Denoiser(lambda h, t, e: h + torch.randn(1, generator=e))
    batches = ProvenBatches()
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    expected = [torch.randn(2, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    calls = [call(denoiser, i, extra=generators[i]) for i in range(2)]
    for n in range(2):
        for i, answer in enumerate(batches.run(calls)):
            assert torch.allclose(answer[0], calls[i].kwargs["hidden_states"] + expected[i][n])
