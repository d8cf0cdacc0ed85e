"""The threads and tasks of an operator: the end of any of them is logged with its cause, and ends the process."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from omni_operator.controller import operator as operator_module
from omni_operator.controller.background import Background
from omni_operator.controller.errors import Unhealthy
from omni_operator.controller.leadership import leader as leader_module
from omni_operator.controller.leadership import other_operators
from omni_operator.controller.operator import Operator
from omni_operator.crd.objects import Object
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import CHILDREN, PODS, Resource


class Defect(Exception):
    """What no code expects."""


class Server:
    """An API server without objects. `broken`: what raises a defect from now on, such as `list pods`."""

    child_resources = CHILDREN
    is_inside = True
    assigns_ids = False

    def __init__(self) -> None:
        self.connection = SimpleNamespace(on_call=None)
        self.broken: set[str] = set()
        self.error: Exception = Defect("a defect")

    def _check(self, call: str) -> None:
        if call in self.broken:
            raise self.error

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        self._check(f"get {resource.plural}")
        return None

    def create(self, resource: Resource, content: Object) -> Object:
        return content

    def pages(self, resource: Resource, *where: Any) -> Iterator[tuple[list[Object], str]]:
        self._check(f"list {resource.plural}")
        yield [], "5"

    def watch(self, resource: Resource, *where: Any) -> Iterator[Object]:
        self._check(f"watch {resource.plural}")
        time.sleep(0.05)
        return iter([])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(other_operators, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(operator_module, "RESYNC_SECONDS", 0.02)
    monkeypatch.setattr(operator_module, "METRICS_SECONDS", 0.02)
    monkeypatch.setattr(operator_module, "POLL_SECONDS", 0.02)


def wait_until_active(operator: Operator) -> None:
    while not operator._active_scopes:
        time.sleep(0.01)


def ended(break_it: Callable[[Operator, Server], None], is_stopped_before: bool = False) -> str:
    """The failure of a running operator after something in it breaks; empty if it is still healthy after a while."""

    async def run() -> str:
        server: Any = Server()
        operator = Operator(server, "worker:test", ())
        operator.require_leases("me")
        has_failed = asyncio.Event()
        loop = asyncio.get_running_loop()
        operator.background.on_failure = lambda: loop.call_soon_threadsafe(has_failed.set)
        operator.start()
        await asyncio.to_thread(wait_until_active, operator)
        operator.require_healthy()
        if is_stopped_before:
            await operator.stop()
        break_it(operator, server)
        try:
            await asyncio.wait_for(has_failed.wait(), 0.5 if is_stopped_before else 60)
        except TimeoutError:
            return ""
        with pytest.raises(Unhealthy, match=operator.background.failure[:20]):
            operator.require_healthy()
        await operator.stop()
        return operator.background.failure

    return asyncio.run(run())


def calls(*broken: str) -> Callable[[Operator, Server], None]:
    return lambda operator, server: server.broken.update(broken)


def method(name: str) -> Callable[[Operator, Server], None]:
    """Breaks a method that a task of the operator calls."""

    def broken(*_: Any) -> None:
        raise Defect("a defect")

    return lambda operator, server: setattr(operator, name, broken)


def broken_queue(operator: Operator, server: Server) -> None:
    def broken(*_: Any) -> None:
        raise Defect("a defect")

    operator._queue.finish = operator._queue.retry = broken  # type: ignore[method-assign, assignment]
    operator._queue.add(("gallery", "digits"))


def broken_gauge(operator: Operator, server: Server) -> None:
    operator.metrics.queue_depth = None  # type: ignore[assignment]


def broken_look(operator: Operator, server: Server) -> None:
    operator._other_operators._leases = None  # type: ignore[union-attr, assignment]


def broken_pollers(operator: Operator, server: Server) -> None:
    class Broken(dict[Any, Any]):
        def __iter__(self) -> Any:
            raise Defect("a defect")

    operator._pollers[0]._entries = Broken()


# name: (how it breaks, the thread or task that ends)
ENDS: dict[str, tuple[Callable[[Operator, Server], None], str]] = {
    "the Lease": (calls("get leases"), "the thread lease-default"),
    "the watch of other operators": (calls("watch leases"), "the thread watch-leases"),
    "the operators for single namespaces": (broken_look, "the thread other-operators"),
    **{
        f"the watch of {resource.plural}": (calls(f"watch {resource.plural}"), f"the thread watch-{resource.plural}")
        for resource in (*CHILDREN.values(), PODS)
    },
    "the workers": (broken_queue, "the task worker-"),
    "the resync": (method("_list_pipelines"), "the task resync"),
    "the metrics": (broken_gauge, "the task metrics"),
    "the polls": (broken_pollers, "the task polls"),
}


@pytest.mark.parametrize("row", ENDS)
def test_the_end_of_any_thread_or_task_ends_the_operator(row: str, caplog: pytest.LogCaptureFixture) -> None:
    break_it, name = ENDS[row]
    failure = ended(break_it)
    assert failure.startswith(name)
    assert "has ended: " in failure
    critical = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert critical[0].startswith(f"{failure}; the operator ends too")


@pytest.mark.parametrize("error", [ApiError(500, "InternalError", "no"), Unreachable("no"), ApiError(401, "", "no")])
def test_what_the_server_refuses_ends_nothing(error: Exception) -> None:
    async def run() -> None:
        server: Any = Server()
        operator = Operator(server, "worker:test", ())
        operator.require_leases("me")
        operator.start()
        server.error = error
        server.broken = {f"{verb} {one.plural}" for one in CHILDREN.values() for verb in ("list", "watch")}
        server.broken |= {"get leases", "list leases", "watch leases", "list omnipipelines"}
        await asyncio.sleep(0.5)
        operator.require_healthy()
        await operator.stop()

    asyncio.run(run())


def test_the_end_of_a_thread_after_the_operator_has_stopped_is_no_failure() -> None:
    assert ended(calls("watch pods", "get leases", "list leases"), is_stopped_before=True) == ""


def test_a_server_for_metrics_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Server()
    operator = Operator(server, "worker:test", ())
    has_failed, may_end = threading.Event(), threading.Event()
    operator.background.on_failure = has_failed.set
    thread = threading.Thread(target=may_end.wait, daemon=True)
    thread.start()
    monkeypatch.setattr(operator.metrics, "serve", lambda port: thread)
    operator.serve_metrics(8081)
    may_end.set()
    assert has_failed.wait(60)
    assert operator.background.failure.startswith("the thread metrics-server has ended")


@pytest.mark.parametrize("error", [Defect("x"), SystemExit(3), KeyboardInterrupt()])
def test_the_first_end_counts_and_is_reported_once(error: BaseException) -> None:
    background, failures = Background(), []
    background.on_failure = lambda: failures.append(background.failure)

    def fail() -> None:
        raise error

    background.start_thread("first", fail).join(60)
    background.start_thread("second", lambda: None).join(60)
    assert failures == [f"the thread first has ended: {error!r}"] == [background.failure]


def test_a_task_that_returns_or_is_cancelled_is_a_failure() -> None:
    async def run(is_cancelled: bool) -> str:
        background = Background()
        task = background.start_task("sleeper", asyncio.sleep(3600 if is_cancelled else 0))
        if is_cancelled:
            task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        return background.failure

    for is_cancelled in (False, True):
        assert asyncio.run(run(is_cancelled)) == "the task sleeper has ended: it returned or was cancelled"
