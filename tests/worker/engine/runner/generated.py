"""What transformers' `generate` writes with the tiny models, to compare an autoregressive stage with."""

import functools

import torch

from tests.worker.language import tiny_models


@functools.cache
def model(kind="llama"):
    return tiny_models.served(kind)


@functools.cache
def bare(kind="llama"):
    return tiny_models.bare(kind)


@functools.cache
def generated(prompt, count, kind="llama", **more):
    """What transformers writes, greedily: (tokens, scores of each, states of each)."""
    ids = torch.tensor([tiny_models.tokenizer().encode(prompt)])
    with torch.no_grad():
        out = bare(kind).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            output_scores=True,
            output_hidden_states=True,
            return_dict_in_generate=True,
            **more,
        )
    states = [step[-1][0] for step in out.hidden_states]
    return out.sequences[0, ids.shape[1] :].tolist(), torch.cat(out.scores), states


def tokens(result):
    return result.completion.written.tokens
