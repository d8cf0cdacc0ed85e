"""A model writes by its generation config, as in transformers' `generate`: alone, in a batch, and resumed."""

import logging

import pytest
import torch
from transformers import GenerationConfig

from omni_worker.errors import LoadError, RequestError
from omni_worker.language.generation import start_generation
from omni_worker.language.loading import wrap
from omni_worker.language.sampling import RandomNumbers, sample_tokens
from tests.worker.engine.language_engine import LanguageEngine, answer, params
from tests.worker.language import tiny_models

PROMPTS = ["A", "hello", "aaaa bbbb aaaa"]
COUNT = 24
EOS = [7, tiny_models.END]
RULES = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "of the prompt": {"encoder_repetition_penalty": 9.0, "encoder_no_repeat_ngram_size": 4},
    "bad words": {"bad_words_ids": [*([token] for token in range(130)), [150, 151]]},
    "sequence_bias": {"sequence_bias": [[[70], 9.0], [[71, 72], -5.0]]},
    "suppressed": {"suppress_tokens": list(range(100)), "begin_suppress_tokens": list(range(100, 200))},
    "min_new_tokens": {"min_new_tokens": 20, "sequence_bias": [[[7], 30.0]]},
    "min_length": {"min_length": 18, "sequence_bias": [[[7], 30.0]]},
    "growing wish to end": {"exponential_decay_length_penalty": [4, 1.6]},
    "a forced end": {"forced_eos_token_id": 7},
}


def model_with(rules):
    bare = tiny_models.bare("llama")
    bare.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=tiny_models.END, **rules)
    return bare


def generated(rules, prompt):
    ids = torch.tensor([tiny_models.tokenizer().encode(prompt)])
    with torch.no_grad():
        mask = torch.ones_like(ids)
        found = model_with(rules).generate(ids, attention_mask=mask, max_new_tokens=COUNT, do_sample=False)
    return found[0, ids.shape[1] :].tolist()


def tokens(result):
    return result.completion.written.tokens


@pytest.mark.parametrize("name", RULES)
def test_what_generate_writes_is_written_alone_together_and_resumed(name):
    rules = RULES[name]
    expected = {prompt: generated(rules, prompt) for prompt in PROMPTS}
    assert any(expected[prompt] != generated({}, prompt) for prompt in PROMPTS), "the rule does something"
    model = wrap(model_with(rules), tiny_models.tokenizer())
    for prompt in PROMPTS:
        assert tokens(answer(model, params(prompt, max_tokens=COUNT))) == expected[prompt]
        written = expected[prompt][: len(expected[prompt]) // 2]
        assert tokens(answer(model, params(prompt, written=written, max_tokens=COUNT))) == expected[prompt]
    writer = LanguageEngine(model)
    for prompt in PROMPTS:
        writer.add(prompt, params(prompt, max_tokens=COUNT))
        writer.step(2)
    writer.finish()
    assert {prompt: tokens(writer.result(prompt)) for prompt in PROMPTS} == expected


@pytest.mark.parametrize(
    "filters",
    [{"min_p": 0.2}, {"typical_p": 0.4}, {"epsilon_cutoff": 0.02}, {"eta_cutoff": 0.1}, {"min_p": 0.05, "top_k": 9}],
    ids=str,
)
def test_tokens_are_drawn_from_those_that_transformers_leaves(filters):
    bare = model_with({"do_sample": True, "temperature": 1.5, "top_k": 0} | filters)
    model = wrap(bare, tiny_models.tokenizer())
    sampling = start_generation("a", 0, params("A", max_tokens=4), [65], model).sampling
    scores = torch.randn(1, 260, generator=torch.Generator().manual_seed(1)) * 3
    bare.generation_config._eos_token_tensor = None
    warped = bare._get_logits_processor(bare.generation_config, 1)(torch.tensor([[65]]), scores.clone())
    shares, numbers, count = torch.softmax(warped[0], -1), RandomNumbers(3), 20_000
    choices = [type(sampling)(1.5, sampling.top_p, sampling.top_k, numbers.at(i), sampling.filters) for i in range(200)]
    drawn = sample_tokens(scores.expand(200, -1), choices)
    assert all(shares[token] > 0 for token in drawn)
    assert (shares > 0).sum() < 100 < count, "the filter excludes most tokens"
    expected = sample_tokens(warped.expand(200, -1), [type(sampling)(1.0, random=numbers.at(i)) for i in range(200)])
    assert drawn == expected


def test_requests_override_the_models_penalty_each_its_own_in_one_batch():
    model = wrap(model_with({"repetition_penalty": 1.7}), tiny_models.tokenizer())
    penalties = {"own": None, "none": 1.0, "inverse": 0.5}
    expected = {
        name: generated({"repetition_penalty": 1.7 if one is None else one}, "hello") for name, one in penalties.items()
    }
    assert len(set(map(tuple, expected.values()))) == 3
    writer = LanguageEngine(model)
    for name, one in penalties.items():
        writer.add(name, params("hello", max_tokens=COUNT, repetition_penalty=one))
    writer.finish()
    assert {name: tokens(writer.result(name)) for name in penalties} == expected
    bare = wrap(model_with({}), tiny_models.tokenizer())
    assert tokens(answer(bare, params("hello", max_tokens=COUNT, repetition_penalty=0.5))) == expected["inverse"]


@pytest.mark.parametrize(("own", "asked", "kept"), [(0.9, 0.1, 0.1), (None, 0.3, 0.3), (0.9, 0.0, None)])
def test_a_request_overrides_the_models_min_p(own, asked, kept):
    model = wrap(model_with({"do_sample": True, "min_p": own}), tiny_models.tokenizer())
    sampling = start_generation("a", 0, params("A", max_tokens=4, min_p=asked), [65], model).sampling
    assert [one.min_p for one in sampling.filters] == [kept] * (kept is not None)


@pytest.mark.parametrize(("field", "value"), [("min_p", 1.5), ("repetition_penalty", 0.0)])
def test_a_wrong_override_is_rejected_by_name(field, value):
    model = wrap(model_with({}), tiny_models.tokenizer())
    with pytest.raises(RequestError, match=f"{field}: {value} is not valid"):
        start_generation("a", 0, params("A", **{field: value}), [65], model)


def test_log_probabilities_are_the_models_own():
    rules = {"suppress_tokens": list(range(200))}
    plain, ruled = (wrap(model_with(one), tiny_models.tokenizer()) for one in ({}, rules))
    first = [answer(one, params("A", max_tokens=1, logprobs=3)).completion.written for one in (plain, ruled)]
    assert first[0].tokens != first[1].tokens
    assert first[0].logprobs[0].likeliest == first[1].logprobs[0].likeliest


def test_what_cannot_be_applied_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        wrap(model_with({"num_beams": 4, "repetition_penalty": 1.2}), tiny_models.tokenizer())
    assert "its generation_config asks for num_beams, which is not applied" in caplog.text


def test_a_model_without_rules_pays_nothing():
    model = wrap(model_with({}), tiny_models.tokenizer())
    assert start_generation("a", 0, params("A", max_tokens=4), [65], model).rules is None


@pytest.mark.parametrize(
    "rules",
    [{"sequence_bias": "much"}, {"no_repeat_ngram_size": "two"}, {"bad_words_ids": [["a"]]}, {"min_p": 3.0}],
    ids=str,
)
def test_settings_that_make_no_sense_are_named_when_the_model_is_loaded(rules):
    bare = model_with({})
    for name, value in rules.items():
        setattr(bare.generation_config, name, value)
    with pytest.raises(LoadError, match="its generation_config cannot be applied"):
        wrap(bare, tiny_models.tokenizer())
