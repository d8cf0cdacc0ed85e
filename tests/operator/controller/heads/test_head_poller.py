"""The state of heads: read when it is needed, then by polling; kept while a head is silent."""

from typing import Any

import pytest

from omni_operator.controller.heads.head_api import HeadError, HeadState
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline

KEY = ("gallery", "digits")


class Head:
    """Answers with `serving`, or not at all if that is None, and counts the requests."""

    def __init__(self) -> None:
        self.serving: int | None = 2
        self.requests = 0
        self.poller = HeadPoller(self.read)

    def read(self, pipeline: OmniPipeline) -> HeadState:
        self.requests += 1
        if self.serving is None:
            raise HeadError("the head does not answer")
        return HeadState(self.serving)


def serving(head: Head, pipeline: OmniPipeline, is_needed: bool) -> int | None:
    state = head.poller.follow(pipeline, is_needed)
    assert head.poller.last_state(KEY) == state
    return state.serving if state else None


@pytest.fixture
def pipeline(digits: dict[str, Any]) -> OmniPipeline:
    return parse(digits)


def test_a_head_that_becomes_ready_is_asked_at_once_and_then_by_polling(pipeline: OmniPipeline) -> None:
    head = Head()
    assert serving(head, pipeline, is_needed=True) == 2
    assert (serving(head, pipeline, is_needed=True), head.requests) == (2, 1), "another pass does not ask"
    assert not head.poller.poll(KEY)
    head.serving = 1
    assert head.poller.poll(KEY), "the pipeline needs another pass"
    assert serving(head, pipeline, is_needed=True) == 1


def test_a_silent_head_keeps_its_last_answer(pipeline: OmniPipeline) -> None:
    head = Head()
    head.serving = None
    assert serving(head, pipeline, is_needed=True) is None
    assert serving(head, pipeline, is_needed=True) is None
    assert head.requests == 1, "only the polling asks again: a pass does not wait for a head that failed"
    head.serving = 2
    assert head.poller.poll(KEY)
    head.serving = None
    assert not head.poller.poll(KEY)
    assert serving(head, pipeline, is_needed=True) == 2


def test_a_head_that_is_not_needed_is_not_asked(pipeline: OmniPipeline) -> None:
    head = Head()
    assert serving(head, pipeline, is_needed=False) is None
    assert (head.poller.keys, head.requests) == ([], 0)
    serving(head, pipeline, is_needed=True)
    head.serving = 1
    assert serving(head, pipeline, is_needed=False) is None
    assert serving(head, pipeline, is_needed=True) == 1, "the answer from before is forgotten"


def test_a_head_that_begins_to_refuse_replicas_needs_another_pass(pipeline: OmniPipeline) -> None:
    state = HeadState(0)
    poller = HeadPoller(lambda pipeline: state)
    poller.follow(pipeline, is_needed=True)
    assert not poller.poll(KEY)
    state = HeadState(0, frozenset({"painter"}))
    assert poller.poll(KEY)
    assert poller.last_state(KEY) == state
