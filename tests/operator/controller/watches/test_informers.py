"""The watches of all kinds: what they wait for, and what becomes of a kind that the server does not let us read."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from omni_operator.controller.background import Background
from omni_operator.controller.watches import watch as watch_module
from omni_operator.controller.watches.informers import Informers
from omni_operator.crd.objects import Object, PipelineKey
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import CHILDREN, POD_MONITORS, Resource
from tests.operator.edits import edited

ANSWERS = ("list", "watch")
WEBHOOK = ApiError(500, "InternalError", "conversion webhook for monitoring.coreos.com/v1 failed: connection refused")
ERRORS = {
    "a dead conversion webhook": WEBHOOK,
    "a kind that was removed": ApiError(404, "NotFound", "the server could not find the requested resource"),
    "credentials that are not accepted": ApiError(401, "Unauthorized", "Unauthorized"),
    "no right": ApiError(403, "Forbidden", "podmonitors is forbidden"),
    "a busy server": ApiError(429, "TooManyRequests", "try later"),
    "an aggregated server that is down": ApiError(503, "ServiceUnavailable", "no endpoints"),
    "no answer": Unreachable("timed out", is_timeout=True),
    "an answer that is no list": Unreachable("was answered with something that is not JSON"),
    "an answer without metadata": KeyError("metadata"),
}


class Server:
    """An API server with one page of objects per kind. `errors`: by kind and by `list` or `watch`."""

    child_resources = CHILDREN | {POD_MONITORS.kind: POD_MONITORS}

    def __init__(self) -> None:
        self.errors: dict[tuple[str, str], Exception] = {}
        self.calls: list[tuple[str, str]] = []
        self.objects: dict[str, list[Object]] = {}
        self.hangs: dict[str, threading.Event] = {}

    def pages(self, resource: Resource, *where: Any) -> Iterator[tuple[list[Object], str]]:
        self._call(resource.kind, "list")
        yield self.objects.get(resource.kind, []), "5"

    def watch(self, resource: Resource, *where: Any) -> Iterator[Object]:
        self._call(resource.kind, "watch")
        time.sleep(0.02)
        return iter([])

    def _call(self, kind: str, verb: str) -> None:
        self.calls.append((kind, verb))
        if kind in self.hangs:
            self.hangs[kind].wait()
        if error := self.errors.get((kind, verb)):
            raise error


class Started:
    """Informers that have been started."""

    def __init__(self, server: Any) -> None:
        self.synced = threading.Event()
        self.changes: list[PipelineKey] = []
        self.informers = Informers(server, (None,), self.changes.append)

    def start(self) -> "Started":
        self.informers.start(self.synced.set, Background())
        return self

    @property
    def refusals(self) -> dict[str, str]:
        return {kind: str(error) for kind, error in self.informers.refusals("gallery").items()}


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(watch_module, "MAX_DELAY_SECONDS", 0.05)


@pytest.mark.parametrize("verb", ANSWERS)
@pytest.mark.parametrize("row", ERRORS)
def test_a_minor_kind_that_cannot_be_read_holds_up_nothing_and_is_reported_until_it_can(
    row: str, verb: str, digits: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = Server()
    server.errors["PodMonitor", verb] = ERRORS[row]
    started = Started(server)
    started.informers.put_pipeline(digits)
    started.changes.clear()
    started.start()
    assert started.synced.wait(60)
    eventually(lambda: started.refusals == {"PodMonitor": str(ERRORS[row])})
    eventually(lambda: server.calls.count(("PodMonitor", verb)) > 5)
    assert started.informers.longest_silence() < 30
    assert len([one for one in caplog.messages if str(ERRORS[row]) in one]) == 1, "logged once"
    started.changes.clear()
    server.errors.clear()
    eventually(lambda: not started.refusals)
    eventually(lambda: ("gallery", "digits") in started.changes)
    assert not started.informers.pending_kinds("gallery")
    assert [one for one in caplog.messages if one == "watch of podmonitors: works again"]


def test_a_minor_kind_that_hangs_holds_up_nothing_and_is_left_alone_until_it_is_known(digits: dict[str, Any]) -> None:
    server = Server()
    server.hangs["PodMonitor"] = threading.Event()
    started = Started(server)
    started.informers.put_pipeline(digits)
    started.start()
    assert started.synced.wait(60)
    eventually(lambda: started.informers.pending_kinds("gallery") == {"PodMonitor"})
    assert started.refusals == {}
    started.informers._watches[-2].last_message_at -= 10_000
    assert started.informers._watches[-2].resource == POD_MONITORS
    assert started.informers.longest_silence() < 30, "a minor watch does not make the operator unhealthy"
    started.changes.clear()
    server.hangs["PodMonitor"].set()
    eventually(lambda: ("gallery", "digits") in started.changes)
    assert not started.informers.pending_kinds("gallery")


@pytest.mark.parametrize("row", ["a dead conversion webhook", "credentials that are not accepted", "no answer"])
def test_a_kind_that_pipelines_need_is_waited_for_and_the_reason_is_logged_once(
    row: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.errors["Deployment", "list"] = ERRORS[row]
    started = Started(server).start()
    eventually(lambda: server.calls.count(("Deployment", "list")) > 5)
    assert not started.synced.is_set()
    assert len([one for one in caplog.messages if str(ERRORS[row]) in one]) == 1
    server.errors.clear()
    assert started.synced.wait(60)
    assert started.refusals == {}


def test_a_kind_that_pipelines_need_and_that_is_denied_is_reported_in_their_status() -> None:
    server = Server()
    server.errors["Deployment", "list"] = ERRORS["no right"]
    started = Started(server).start()
    assert started.synced.wait(60)
    assert started.refusals == {"Deployment": str(ERRORS["no right"])}


def test_pipelines_of_another_namespace_are_not_asked_to_look_again(digits: dict[str, Any]) -> None:
    server: Any = Server()
    started = Started(server)
    started.informers = Informers(server, ("gallery", "studio"), started.changes.append)
    for namespace in ("gallery", "studio"):
        started.informers.put_pipeline(edited(digits, {"metadata.namespace": namespace}))
    started.changes.clear()
    started.informers._cache.notify_all("studio")
    assert started.changes == [("studio", "digits")]
