"""A request of an autoregressive stage that fails leaves the others as they are, and nothing behind."""

import gc
import weakref

import torch

from omni_worker.errors import RequestError
from tests.worker.engine.language_engine import LanguageEngine, params
from tests.worker.language import tiny_models

from .generated import generated, tokens


def failing_on_the_word(monkeypatch):
    """A model whose calls fail if a text has "!"."""
    broken = tiny_models.served("llama")
    forward = broken.slots._model.forward

    def fails_on_the_word(input_ids, **kwargs):
        if (input_ids == ord("!") - 33).any():
            raise RuntimeError("a shape does not fit")
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(broken.slots._model, "forward", fails_on_the_word)
    return broken


def test_a_batch_that_fails_fails_only_for_its_culprit(monkeypatch):
    broken = failing_on_the_word(monkeypatch)
    writer = LanguageEngine(broken)
    for id, prompt in (("a", "ABC"), ("culprit", "AB!"), ("b", "DEF")):
        writer.add(id, params(prompt, max_tokens=6))
    writer.finish()
    assert "a shape does not fit" in str(writer.ended["culprit"].error)
    assert tokens(writer.result("a")) == generated("ABC", 6)[0]
    assert tokens(writer.result("b")) == generated("DEF", 6)[0]


def test_scores_that_are_no_numbers_fail_their_request_and_leave_no_trace():
    broken = tiny_models.served("llama")
    with torch.no_grad():
        broken.slots._model.model.embed_tokens.weight[0] = torch.nan  # the token of "!"
    writer = LanguageEngine(broken)
    for id, prompt in (("a", "ABC"), ("culprit", "AB!"), ("b", "DEF")):
        writer.add(id, params(prompt, max_tokens=6))
    writer.finish()
    error = writer.ended["culprit"].error
    assert isinstance(error, RequestError)
    assert (error.kind, "no numbers" in error.message) == ("failed", True)
    writer.add("after", params("GHI", max_tokens=6))
    writer.finish()
    assert tokens(writer.result("a")) == generated("ABC", 6)[0]
    assert tokens(writer.result("b")) == generated("DEF", 6)[0]
    assert tokens(writer.result("after")) == generated("GHI", 6)[0]


def test_requests_are_freed_when_they_end_without_the_garbage_collector(monkeypatch):
    broken, alive = failing_on_the_word(monkeypatch), []
    writer = LanguageEngine(broken)
    gc.collect()
    gc.disable()
    try:
        for id, prompt in (("a", "ABC"), ("culprit", "AB!"), ("aborted", "DEF"), ("b", "GHI")):
            writer.add(id, params(prompt, max_tokens=6, stream=True, logprobs=2, stop=("never",)))
        writer.add("invalid", params("ABC", temperature=-1.0))
        writer.step()
        alive = [weakref.ref(state) for state in writer.runner._states.values()]
        assert len(alive) == 4
        writer.step(2)
        writer.engine.abort("aborted")
        writer.finish()
        assert "a shape does not fit" in str(writer.ended["culprit"].error)
        assert "fails_on_the_word" in "".join(writer.ended["culprit"].error.__notes__)
        assert [state() for state in alive] == [None] * 4
    finally:
        gc.enable()
