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
