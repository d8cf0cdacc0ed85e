"""Which of the messages that wait for a peer are merged, and which are kept."""

import numpy as np

from omni_worker.replica.wire import outbox as outbox_module
from omni_worker.replica.wire.messages import (
    Alive,
    Output,
    Partial,
    Progress,
)
from omni_worker.requests import GeneratedText, GenerationResult


def test_news_replace_each_other_and_answers_stay_in_order():
    box = outbox_module.Outbox()
    for step in range(1000):
        box.put(Progress("a", step, 1000))
        box.put(Partial("a", GeneratedText(text=f"{step},", tokens=[step])))
        box.put(Partial("a", preview=[np.full(3, step)]))
        box.put(Alive())
    box.put(Progress("b", 7, 1000))
    box.put(Output("a", GenerationResult(images=[np.zeros(10, np.uint8)])))
    box.put(Partial("b", preview=[np.zeros(3)]))
    assert len(box) == 5
    partial, alive, progress, output, other = (box.pop() for _ in range(5))
    assert (progress.id, progress.step) == ("b", 7), "of one that has an answer it is no news"
    assert partial.written.text == "".join(f"{step}," for step in range(1000))
    assert partial.written.tokens == list(range(1000))
    assert partial.preview[0].tolist() == [999] * 3
    assert isinstance(alive, Alive)
    assert output.id == "a"
    assert other.written is None
    assert len(box) == 0


def test_a_result_that_is_too_large_is_an_error_of_its_request_alone(monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_RESULT_BYTES", 100)
    box = outbox_module.Outbox()
    box.put(Output("a", GenerationResult(images=[np.zeros(60, np.uint8), np.zeros(41, np.uint8)])))
    box.put(Output("b", GenerationResult(embeddings={"e": np.zeros(13, np.float64)})))
    box.put(Output("c", GenerationResult(images=[np.zeros(100, np.uint8)])))
    first, second, third = (box.pop() for _ in range(3))
    assert (first.id, first.kind, second.id, second.kind) == ("a", "invalid", "b", "invalid"), "never retried"
    assert "more than the 9.31323e-08 GiB" in first.message
    assert third.id == "c"
    assert isinstance(third, Output)
    assert not box.is_full
