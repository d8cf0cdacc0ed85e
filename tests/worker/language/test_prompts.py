"""Prompts are tokenized before they reach the runner, and a text that cannot fit is not tokenized at all."""

import pytest

from omni_worker.errors import RequestError
from omni_worker.language.prompts import QUICK_CHARACTERS, PromptTokenizer
from omni_worker.language.text import TextTokenizer
from omni_worker.requests import GenerationParams, Message
from tests.worker.language import tiny_models


def asked(*texts):
    return GenerationParams(prompt=texts[-1], messages=tuple(Message(role="user", content=text) for text in texts))


def test_a_prompt_gets_its_tokens():
    prepared = PromptTokenizer(TextTokenizer(tiny_models.tokenizer()), 512).prepare(GenerationParams(prompt="ABC"))
    assert prepared.tokens == tiny_models.tokenizer().encode("ABC")
    assert prepared.params.prompt == "ABC"


def test_a_prompt_of_more_tokens_than_the_context_does_not_reach_the_runner():
    tokenizer = TextTokenizer(tiny_models.tokenizer())
    assert len(PromptTokenizer(tokenizer, 300).prepare(asked("A" * 300)).tokens) == 300
    with pytest.raises(RequestError, match="301 tokens") as failure:
        PromptTokenizer(tokenizer, 300).prepare(asked("A" * 301))
    assert (failure.value.code, failure.value.param) == ("context_length_exceeded", "messages")


def test_only_short_texts_are_quick():
    prompts = PromptTokenizer(TextTokenizer(tiny_models.tokenizer()), None)
    assert prompts.is_quick(GenerationParams(prompt="A" * QUICK_CHARACTERS))
    assert not prompts.is_quick(GenerationParams(prompt="A" * QUICK_CHARACTERS + "A"))
    assert not prompts.is_quick(asked(*["A" * 1000] * 21))


@pytest.mark.parametrize(
    ("params", "param"),
    [(GenerationParams(prompt="A" * 600), "prompt"), (asked("A" * 300, "B" * 300), "messages")],
)
def test_a_text_that_no_tokens_can_cover_is_rejected_before_it_is_tokenized(monkeypatch, params, param):
    tokenizer = TextTokenizer(tiny_models.tokenizer())
    monkeypatch.setattr(tokenizer, "encode", lambda params: pytest.fail("it was tokenized"))
    with pytest.raises(RequestError) as failure:
        PromptTokenizer(tokenizer, 599 // tokenizer.longest_token).prepare(params)
    assert (failure.value.kind, failure.value.param) == ("invalid", param)
    assert failure.value.code == "context_length_exceeded"
    assert "600 characters" in failure.value.message
