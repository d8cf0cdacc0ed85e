"""What heads tell of the replicas inside them: asked when they become ready, then now and then; believed until then."""

from typing import Any

import pytest

from omni_operator.controller.heads.head_api import UnknownLoad, serving_in_head
from omni_operator.controller.heads.head_poller import Heads
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from tests.operator.edits import edited

KEY = ("gallery", "digits")


class Head:
    """Tells what a test says, and counts how often it was asked."""

    def __init__(self) -> None:
        self.serving: int | None = 2
        self.asked = 0
        self.heads = Heads(self.read)

    def read(self, pipeline: OmniPipeline) -> int:
        self.asked += 1
        if self.serving is None:
            raise UnknownLoad("the head does not answer")
        return self.serving


@pytest.fixture
def pipeline(digits: dict[str, Any]) -> OmniPipeline:
    return parse(edited(digits, {"spec.head.localReplicas": 2}))


def test_a_head_that_becomes_ready_is_asked_at_once_and_then_when_it_is_polled(pipeline: OmniPipeline) -> None:
    head = Head()
    assert head.heads.serving(pipeline, is_ready=True) == 2
    assert (head.heads.serving(pipeline, is_ready=True), head.asked) == (2, 1), "another pass asks nothing"
    assert not head.heads.poll(KEY)
    head.serving = 1
    assert head.heads.poll(KEY), "there is something to reconcile"
    assert head.heads.serving(pipeline, is_ready=True) == 1


def test_a_head_that_does_not_tell_leaves_what_it_told_before(pipeline: OmniPipeline) -> None:
    head = Head()
    head.serving = None
    assert head.heads.serving(pipeline, is_ready=True) is None
    head.serving = 2
    assert head.heads.poll(KEY)
    head.serving = None
    assert not head.heads.poll(KEY)
    assert head.heads.serving(pipeline, is_ready=True) == 2


def test_nobody_is_asked_without_replicas_in_the_head_or_before_it_is_ready(
    digits: dict[str, Any], pipeline: OmniPipeline
) -> None:
    head = Head()
    assert head.heads.serving(parse(digits), is_ready=True) is None
    assert head.heads.serving(pipeline, is_ready=False) is None
    assert (head.heads.keys, head.asked) == ([], 0)
    head.heads.serving(pipeline, is_ready=True)
    head.serving = 1
    assert head.heads.serving(pipeline, is_ready=False) is None
    assert head.heads.serving(pipeline, is_ready=True) == 1, "what a head told before it started anew is forgotten"


def replica(address: str, state: str) -> dict[str, str]:
    return {"address": f"tcp://{address}:9100", "state": state}


class Proxy:
    """An API server that passes a question on to a head."""

    is_inside = False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_from_service(self, *question: Any) -> Any:
        return self.answer


def test_only_what_serves_at_the_heads_own_loopback_counts(pipeline: OmniPipeline) -> None:
    replicas = [replica("127.0.0.1", "UP"), replica("127.0.0.1", "ERROR"), replica("10.244.0.7", "UP")]
    proxy: Any = Proxy({"stages": [{"replicas": replicas}, {"replicas": [replica("127.0.0.1", "UP")]}]})
    assert serving_in_head(proxy, pipeline) == 2
    other: Any = Proxy({"detail": "not found"})
    with pytest.raises(UnknownLoad, match="not understood"):
        serving_in_head(other, pipeline)
