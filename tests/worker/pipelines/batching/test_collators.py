"""Sequences of different lengths in one batch."""

import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import TEXT_ENCODER, Collator
from omni_worker.pipelines.batching.keys import KeyTable
from omni_worker.pipelines.components import ENCODE
from omni_worker.pipelines.request_context import RequestContext
from tests.worker.pipelines.batching.calls import Denoiser, assert_right, call


class Encoder:
    """A text encoder that minds its mask: position i sums the tokens that count, up to itself."""

    def __call__(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return {"last_hidden_state": (input_ids * mask).cumsum(1).unsqueeze(-1).float(), "pooled": input_ids[:, 0]}


def test_a_collator_pads_sequences_of_other_lengths_and_trims_the_results():
    def encode(length, mask):
        ids = torch.arange(1, length + 1).reshape(1, -1)
        kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask else None}
        return Call(ENCODE, "text_encoder", Encoder(), (), kwargs, RequestContext("r"), TEXT_ENCODER)

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
