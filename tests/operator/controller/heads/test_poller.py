"""What all pollers of heads share: which pipelines they poll, and answers that arrive too late."""

import logging
from typing import Any

import pytest

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.controller.heads.poller import PollEntry, Poller
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from tests.operator.edits import edited

KEY = ("gallery", "digits")


class Recorder(Poller[PollEntry, int]):
    """Keeps the answers. Calls `during_request` while it waits for one."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.answers: list[int | HeadError] = []
        self.during_request = lambda: None
        self.is_silent = False
        self.defect: Exception | None = None

    def answer(self, pipeline: OmniPipeline) -> int:
        self.during_request()
        if self.defect:
            raise self.defect
        if self.is_silent:
            raise HeadError("the head does not answer")
        return 7

    def add(self, pipeline: OmniPipeline) -> None:
        self._entries[pipeline.namespace, pipeline.name] = PollEntry(pipeline=pipeline)

    def _update(self, entry: PollEntry, answer: int | HeadError) -> bool:
        self.answers.append(answer)
        return True


@pytest.fixture
def poller(digits: dict[str, Any]) -> Recorder:
    recorder = Recorder()
    recorder.add(parse(digits))
    return recorder


def test_an_entry_is_updated_with_the_answer_or_the_error(poller: Recorder) -> None:
    assert poller.poll(KEY)
    poller.is_silent = True
    assert poller.poll(KEY)
    assert poller.answers[0] == 7
    assert isinstance(poller.answers[1], HeadError)


def test_a_forgotten_pipeline_is_not_polled(poller: Recorder) -> None:
    poller.forget(KEY)
    assert poller.keys == []
    assert not poller.poll(KEY)
    assert poller.answers == []


def test_only_the_namespaces_of_another_operator_are_forgotten(digits: dict[str, Any], poller: Recorder) -> None:
    poller.add(parse(edited(digits, {"metadata.namespace": "studio"})))
    poller.forget_where(lambda namespace: namespace == "studio")
    assert poller.keys == [KEY]


def test_an_answer_that_arrives_after_the_pipeline_was_forgotten_is_ignored(poller: Recorder) -> None:
    poller.during_request = lambda: poller.forget(KEY)
    assert not poller.poll(KEY)
    assert poller.answers == []


def test_an_answer_for_a_pipeline_that_was_replaced_is_ignored(digits: dict[str, Any], poller: Recorder) -> None:
    poller.during_request = lambda: poller.add(parse(digits))
    assert not poller.poll(KEY)
    assert poller.answers == []


def test_a_failing_head_is_logged_once_until_it_answers_again(
    poller: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert poller.failing_keys == set()
    poller.is_silent = True
    for _ in range(3):
        poller.poll(KEY)
        assert poller.failing_keys == {KEY}
    poller.is_silent = False
    poller.poll(KEY)
    assert poller.failing_keys == set()
    assert [record.getMessage() for record in caplog.records] == [
        "gallery/digits: the head does not answer",
        "gallery/digits: the head answers again",
    ]


@pytest.mark.parametrize("defect", [OverflowError("inf"), RecursionError(), MemoryError(), AttributeError("x")])
def test_whatever_a_request_raises_stays_with_its_pipeline(
    poller: Recorder, caplog: pytest.LogCaptureFixture, defect: Exception
) -> None:
    poller.defect = defect
    assert poller.poll(KEY)
    assert isinstance(poller.answers[0], HeadError)
    assert poller.failing_keys == {KEY}
    assert "gallery/digits: a defect of the operator" in caplog.text
