"""Merging calls, taking answers apart, and trusting no batch before it is proven."""

import pytest
import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import TEXT_ENCODER, Collator
from omni_worker.pipelines.batching.comparing import TensorEquality, agree
from omni_worker.pipelines.batching.keys import KeyTable
from omni_worker.pipelines.components import DENOISE, ENCODE
from omni_worker.pipelines.request_context import ModelDefaults, RequestContext

MODELS = ModelDefaults([])


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
    return Call(phase, "model", denoiser, (), kwargs, RequestContext(f"r{value}", MODELS), collator)


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


def test_calls_of_one_key_run_as_one_and_each_gets_its_own():
    denoiser = Denoiser(good)
    batches = ProvenBatches()
    calls = [call(denoiser, i) for i in range(4)]
    assert_right(batches, calls, share=True)
    before = denoiser.calls
    batches.run(calls)
    assert denoiser.calls == before + 1


@pytest.mark.parametrize("rows", [2, 3])
def test_scalar_timesteps_of_doubled_batches_are_spread_over_the_rows(rows):
    assert_right(ProvenBatches(), [call(Denoiser(good), i, rows=rows) for i in range(3)], share=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"rows": 1}, {"rows": 2}, id="another number of rows"),
        pytest.param({"extra": "a"}, {"extra": "b"}, id="another argument that is no tensor"),
        pytest.param({"extra": torch.zeros(1, 3)}, {"extra": torch.zeros(1, 5)}, id="another length of prompt"),
        pytest.param({"extra": torch.zeros(1)}, {"extra": torch.zeros(1, dtype=torch.int64)}, id="another dtype"),
        pytest.param({"extra": [1]}, {"extra": (1,)}, id="another structure"),
        pytest.param({"extra": {"a": 1}}, {"extra": {"b": 1}}, id="another name"),
        pytest.param({"extra": object()}, {"extra": object()}, id="objects that nothing is known of"),
    ],
)
def test_calls_that_cannot_be_merged_have_other_keys(one, other):
    denoiser, keys = Denoiser(good), KeyTable()
    assert keys.of(call(denoiser, 0, **one)) != keys.of(call(denoiser, 1, **other))
    assert keys.of(call(denoiser, 0, rows=2)) == keys.of(call(denoiser, 1, rows=2))


def per_row(extra):
    return torch.stack([item if isinstance(item, torch.Tensor) else torch.tensor(float(item)) for item in extra])


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        pytest.param(
            lambda h, t, e: h * per_row(e).reshape(-1, 1),
            [{"extra": [torch.tensor(float(i + 1))]} for i in range(3)],
            id="lists with an element for each row",
        ),
        pytest.param(
            lambda h, t, e: h + e[0].reshape(len(h), -1),
            [{"extra": [torch.full((1, 4), float(i))]} for i in range(3)],
            id="lists of tensors that are rows themselves, one as long as the batch",
        ),
        pytest.param(
            lambda h, t, e: h + e.reshape(len(h), 2, 4).sum(1),
            [{"extra": torch.full((2, 4), float(i)), "rows": 1} for i in range(3)],
            id="frames folded into rows",
        ),
        pytest.param(
            lambda h, t, e: torch.cat([h.chunk(2)[0] - h.chunk(2)[1]] * 2),
            [{"rows": 2} for _ in range(3)],
            id="a model that cuts its batch into halves",
        ),
        pytest.param(
            lambda h, t, e: h * e.unsqueeze(0).expand(1, 4).sum(),
            [{"extra": torch.ones(1)} for _ in range(3)],
            id="a shared table as long as the batch by accident",
        ),
        pytest.param(
            lambda h, t, e: h + e["a"][0] + e["b"][1],
            [{"extra": {"a": (torch.full((1, 4), float(i)),), "b": [1.0, 2.0]}} for i in range(3)],
            id="nested arguments",
        ),
    ],
)
def test_many_ways_to_hold_a_batch_are_found(answer, arguments):
    assert_right(ProvenBatches(), [call(Denoiser(answer), i, **one) for i, one in enumerate(arguments)], share=True)


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
def test_a_batch_that_would_be_wrong_runs_alone_for_ever(wrong):
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


def test_what_is_equal_in_the_first_batch_only_is_not_taken_to_be_so_for_ever():
    """All requests begin with the same timestep: that must not hide a model that takes the first one's for all."""
    takes_the_first = Denoiser(lambda h, t, e: h * t.reshape(-1)[0])
    batches, same = ProvenBatches(), torch.tensor(3.0)
    assert_right(batches, [call(takes_the_first, i, timestep=same) for i in range(3)], share=True)
    assert_right(batches, [call(takes_the_first, i) for i in range(1, 4)], share=False)
    assert_right(batches, [call(takes_the_first, i, timestep=same) for i in range(3)], share=True)


def test_masks_that_differ_where_they_were_equal_are_proven_anew():
    by_the_first_mask = Denoiser(lambda h, t, e: h * e["attention_mask"][0].sum())
    batches = ProvenBatches()
    one, other = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]])
    assert_right(batches, [call(by_the_first_mask, i, extra={"attention_mask": one}) for i in range(3)], share=True)
    mixed = [call(by_the_first_mask, i, extra={"attention_mask": (one, other)[i % 2]}) for i in range(4)]
    before = batches.batched_calls
    assert_right(batches, mixed, share=True)  # two by two
    assert batches.batched_calls > before


def test_a_size_that_is_new_is_compared_too():
    fails_at_four = Denoiser(lambda h, t, e: h * (2.0 if len(h) == 4 else 1.0))
    batches = ProvenBatches()
    assert_right(batches, [call(fails_at_four, i) for i in range(3)], share=True)
    assert_right(batches, [call(fails_at_four, i) for i in range(4)], share=False)


def test_shared_tensors_of_other_contents_are_not_put_together():
    batches = ProvenBatches()
    denoiser, table = Denoiser(lambda h, t, e: h + e.sum()), torch.arange(3.0)
    assert_right(batches, [call(denoiser, i, rows=2, extra=table) for i in range(2)], share=True)
    assert_right(batches, [call(denoiser, i, rows=2, extra=table * (i + 1)) for i in range(2)], share=False)


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


class Encoder:
    """A text encoder that minds its mask: position i sums the tokens that count, up to itself."""

    def __call__(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return {"last_hidden_state": (input_ids * mask).cumsum(1).unsqueeze(-1).float(), "pooled": input_ids[:, 0]}


def test_a_collator_pads_sequences_of_other_lengths_and_cuts_the_answers():
    def encode(length, mask):
        ids = torch.arange(1, length + 1).reshape(1, -1)
        kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask else None}
        return Call(ENCODE, "text_encoder", Encoder(), (), kwargs, RequestContext("r", MODELS), TEXT_ENCODER)

    encoder = Encoder()
    calls = [encode(length, mask) for length, mask in ((3, True), (5, False), (4, True), (5, True))]
    calls = [Call(c.phase, c.model, encoder, c.args, c.kwargs, c.context, c.collator) for c in calls]
    batches, keys = ProvenBatches(), KeyTable()
    assert len({keys.of(one) for one in calls}) == 1
    assert_right(batches, calls, share=True)
    assert [answer["last_hidden_state"].shape[1] for answer in batches.run(calls)] == [3, 5, 4, 5]


def test_lengths_that_a_model_cannot_even_out_share_a_batch_only_with_their_like():
    unmasked = Denoiser(lambda h, t, e: h * e.mean(1, keepdim=True))
    collator = Collator(padded=frozenset({"extra"}))
    batches = ProvenBatches()
    calls = [call(unmasked, i, extra=torch.randn(1, 2 + i % 2), collator=collator) for i in range(4)]
    before = batches.batched_calls
    assert_right(batches, calls, share=True)
    assert batches.batched_calls > before


def test_answers_agree_up_to_rounding_and_no_further():
    answer = torch.randn(2, 8)
    assert agree((answer,), (answer * (1 + 1e-6),))
    assert not agree((answer,), (answer * 1.01,))
    assert not agree((answer,), (torch.full_like(answer, float("nan")),))
    assert not agree(answer, answer[:1])
    assert not agree([answer], (answer,))


def test_tensors_are_compared_once_and_again_when_they_change():
    same, one, other = TensorEquality(), torch.zeros(3), torch.zeros(3)
    assert same(one, other)
    other += 1
    assert not same(one, other)
