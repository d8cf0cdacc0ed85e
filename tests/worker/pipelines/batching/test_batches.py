"""Which calls run together."""

import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from tests.worker.pipelines.batching.calls import Denoiser, assert_right, call, good


def test_calls_of_one_key_run_as_one_and_each_gets_its_own():
    denoiser = Denoiser(good)
    batches = ProvenBatches()
    calls = [call(denoiser, i) for i in range(4)]
    assert_right(batches, calls, share=True)
    before = denoiser.calls
    batches.run(calls)
    assert denoiser.calls == before + 1


def test_masks_that_differ_where_they_were_equal_are_proven_again():
    by_the_first_mask = Denoiser(lambda h, t, e: h * e["attention_mask"][0].sum())
    batches = ProvenBatches()
    one, other = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]])
    assert_right(batches, [call(by_the_first_mask, i, extra={"attention_mask": one}) for i in range(3)], share=True)
    mixed = [call(by_the_first_mask, i, extra={"attention_mask": (one, other)[i % 2]}) for i in range(4)]
    before = batches.batched_calls
    assert_right(batches, mixed, share=True)  # two by two
    assert batches.batched_calls > before


def test_shared_tensors_of_other_contents_are_not_put_together():
    batches = ProvenBatches()
    denoiser, table = Denoiser(lambda h, t, e: h + e.sum()), torch.arange(3.0)
    assert_right(batches, [call(denoiser, i, rows=2, extra=table) for i in range(2)], share=True)
    assert_right(batches, [call(denoiser, i, rows=2, extra=table * (i + 1)) for i in range(2)], share=False)
