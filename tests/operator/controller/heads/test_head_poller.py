"""The replicas that serve inside heads: read when a head becomes ready, then by polling; kept while it is silent."""

from typing import Any

import pytest

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from tests.operator.edits import edited

KEY = ("gallery", "digits")


class Head:
    """Answers with `serving`, or not at all if that is None, and counts the requests."""

    def __init__(self) -> None:
        self.serving: int | None = 2
        self.requests = 0
        self.poller = HeadPoller(self.read)

    def read(self, pipeline: OmniPipeline) -> int:
        self.requests += 1
        if self.serving is None:
            raise HeadError("the head does not answer")
        return self.serving


@pytest.fixture
def pipeline(digits: dict[str, Any]) -> OmniPipeline:
    return parse(edited(digits, {"spec.head.localReplicas": 2}))


def test_a_head_that_becomes_ready_is_asked_at_once_and_then_by_polling(pipeline: OmniPipeline) -> None:
    head = Head()
    assert head.poller.serving(pipeline, is_head_ready=True) == 2
    assert (head.poller.serving(pipeline, is_head_ready=True), head.requests) == (2, 1), "another pass does not ask"
    assert not head.poller.poll(KEY)
    head.serving = 1
    assert head.poller.poll(KEY), "the pipeline needs another pass"
    assert head.poller.serving(pipeline, is_head_ready=True) == 1


def test_a_silent_head_keeps_its_last_answer(pipeline: OmniPipeline) -> None:
    head = Head()
    head.serving = None
    assert head.poller.serving(pipeline, is_head_ready=True) is None
    head.serving = 2
    assert head.poller.poll(KEY)
    head.serving = None
    assert not head.poller.poll(KEY)
    assert head.poller.serving(pipeline, is_head_ready=True) == 2


def test_a_head_without_local_replicas_or_before_it_is_ready_is_not_asked(
    digits: dict[str, Any], pipeline: OmniPipeline
) -> None:
    head = Head()
    assert head.poller.serving(parse(digits), is_head_ready=True) is None
    assert head.poller.serving(pipeline, is_head_ready=False) is None
    assert (head.poller.keys, head.requests) == ([], 0)
    head.poller.serving(pipeline, is_head_ready=True)
    head.serving = 1
    assert head.poller.serving(pipeline, is_head_ready=False) is None
    assert head.poller.serving(pipeline, is_head_ready=True) == 1, "the answer from before the restart is forgotten"
