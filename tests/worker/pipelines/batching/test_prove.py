"""No batch is trusted before it is proven."""

import pytest
import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.collators import Collator
from omni_worker.pipelines.batching.comparing import agree
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


@pytest.mark.parametrize("border", [5.0, 50.0, 95.0])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_model_that_takes_another_path_at_any_timestep_of_the_loop_is_found(border, count):
    by_the_largest = Denoiser(lambda h, t, e: h * (2.0 if float(t.max()) > border else 3.0))
    batches, first = ProvenBatches(), torch.tensor(100.0)
    assert_right(batches, [call(by_the_largest, i, timestep=first) for i in range(count)], share=True)
    calls = [call(by_the_largest, i, timestep=torch.tensor(border + (1.0 if i else -1.0))) for i in range(count)]
    assert_right(batches, calls, share=False)


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


def of_width(denoiser, width, count, timestep=5.0):
    """Calls whose latents have another shape, at one timestep, as in the first step of new requests."""
    return [
        call(denoiser, i, hidden_states=torch.randn(1, width), timestep=torch.tensor(timestep)) for i in range(count)
    ]


def test_the_proof_of_another_shape_runs_three_calls_more_than_needed():
    denoiser, batches = Denoiser(good), ProvenBatches()
    batches.run(of_width(denoiser, 4, 4))
    for width in (5, 6):
        before = denoiser.calls
        calls = of_width(denoiser, width, 4)
        results = batches.run(calls)
        assert denoiser.calls - before == 1 + 3, "the batch, two calls to compare with, and the perturbed one"
        assert all(agree(one.copy().run(), result) for one, result in zip(calls, results, strict=True))
        assert_right(batches, [call(denoiser, i, hidden_states=torch.randn(1, width)) for i in range(4)], share=True)


def takes_the_first_when_wide(hidden, timestep, extra):
    return hidden * (timestep.reshape(-1)[0] if hidden.shape[1] > 5 else timestep.reshape(-1, 1))


def mixes_rows_when_wide(hidden, timestep, extra):
    return hidden.cumsum(0) if hidden.shape[1] > 5 else hidden


def draws_when_wide(hidden, timestep, extra):
    return hidden + torch.randn(1) if hidden.shape[1] > 5 else hidden


@pytest.mark.parametrize("wrong", [takes_the_first_when_wide, mixes_rows_when_wide, draws_when_wide])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_model_that_is_wrong_in_one_shape_only_is_found(wrong, count):
    denoiser, batches = Denoiser(wrong), ProvenBatches()
    batches.run(of_width(denoiser, 4, count))
    assert batches.stats()["keys_batched"] == 1
    for timestep in (5.0, 5.0, None):
        own = {} if timestep is None else {"timestep": torch.tensor(timestep)}
        calls = [call(denoiser, i + 1, hidden_states=torch.randn(1, 6), **own) for i in range(count)]
        states = [one.random_states for one in calls]
        expected = [one.copy().run() for one in calls]
        for one, before in zip(calls, states, strict=True):
            one.restore_random_states(before)
        assert all(map(agree, expected, batches.run(calls)))


@pytest.mark.parametrize("other", range(1, 6))
def test_in_another_shape_each_call_of_another_mask_is_compared(other):
    by_the_first_mask = Denoiser(lambda h, t, e: h * e["attention_mask"][0].sum())
    batches, masks = ProvenBatches(), torch.tensor([[[1, 1, 0]], [[1, 0, 0]]])
    for width in (4, 5):
        calls = [
            call(
                by_the_first_mask,
                i,
                hidden_states=torch.randn(1, width),
                extra={"attention_mask": masks[int(width == 5 and i == other)]},
            )
            for i in range(6)
        ]
        for _ in range(3):
            assert all(agree(one.copy().run(), result) for one, result in zip(calls, batches.run(calls), strict=True))


@pytest.mark.parametrize("short", range(6))
def test_in_another_shape_each_call_of_another_length_is_compared(short):
    by_the_mean = Denoiser(lambda h, t, e: h * e.mean(1, keepdim=True))  # wrong where a sequence is padded
    batches, collator = ProvenBatches(), Collator(padded=frozenset({"extra"}))
    for width in (4, 5):
        calls = [
            call(
                by_the_mean,
                i,
                hidden_states=torch.randn(1, width),
                extra=torch.rand(1, 2 if width == 5 and i == short else 3) + 1.0,
                collator=collator,
            )
            for i in range(6)
        ]
        for _ in range(3):
            assert all(agree(one.copy().run(), result) for one, result in zip(calls, batches.run(calls), strict=True))


def test_the_proof_of_another_shape_takes_padded_sequences_too():
    batches, collator = ProvenBatches(), Collator(padded=frozenset({"extra"}))
    sums = Denoiser(lambda h, t, e: h * e.sum(1, keepdim=True) + t.reshape(-1, 1))  # zeros at the end change nothing
    for width, expected in ((4, None), (5, 1 + 3), (6, 1 + 3)):
        calls = [
            call(
                sums,
                i,
                hidden_states=torch.randn(1, width),
                extra=torch.rand(1, 2 + i // 4) + 1.0,
                collator=collator,
                timestep=torch.tensor(5.0),
            )
            for i in range(8)
        ]
        before = sums.calls
        results = batches.run(calls)
        assert expected is None or sums.calls - before == expected
        assert all(agree(one.copy().run(), result) for one, result in zip(calls, results, strict=True))
