"""Which namespaces another operator serves: by the watch of Leases, and one look before a holder counts as dead."""

from collections.abc import Iterator
from typing import Any

import pytest

from omni_operator.controller.leadership import other_operators as module
from omni_operator.controller.leadership.other_operators import OtherOperators
from omni_operator.crd.objects import Object
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.planning.lease import LEASE_SECONDS

NAME = "omni-operator"
LATER = LEASE_SECONDS + 1


def lease(version: int, holder: str = "another", namespace: str = "team-a") -> Object:
    metadata = {"namespace": namespace, "name": NAME, "resourceVersion": str(version)}
    return {"kind": "Lease", "metadata": metadata, "spec": {"holderIdentity": holder}}


class Leases:
    """An API server with Leases. `error`: what it answers instead."""

    def __init__(self, *leases: Object) -> None:
        self.leases = list(leases)
        self.error: Exception | None = None
        self.lists = 0

    def list_objects(self, *where: Any) -> list[Object]:
        assert where[-1] == f"metadata.name={NAME}", "no other Lease may be read"
        self.lists += 1
        if self.error:
            raise self.error
        return self.leases

    def pages(self, *where: Any) -> Iterator[tuple[list[Object], str]]:
        yield self.leases, "5"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def watching(server: Any) -> OtherOperators:
    """One whose watch has listed the Leases."""
    others = OtherOperators(server, NAME)
    others._watch._list()
    return others


def served(others: OtherOperators) -> frozenset[str] | None:
    others._served = others._look()
    return others._served


def test_before_the_first_look_every_namespace_counts_as_served(clock: Clock) -> None:
    others = OtherOperators(Leases(), NAME)  # type: ignore[arg-type]
    assert served(others) is None
    assert others.is_served("team-a")


def test_a_holder_that_renews_its_lease_costs_no_request_however_long(clock: Clock) -> None:
    server = Leases(lease(1))
    others = watching(server)
    for version in range(2, 20):
        assert served(others) == {"team-a"}
        clock.now += 2
        others.put(lease(version))
    assert server.lists == 0


def test_a_namespace_whose_lease_comes_or_is_released_or_deleted_changes_at_once(clock: Clock) -> None:
    others = watching(Leases())
    assert served(others) == frozenset()
    others.put(lease(1))
    assert served(others) == {"team-a"}
    others.put(lease(2, holder=""))
    assert served(others) == frozenset()
    others.put(lease(3))
    others.remove(lease(4))
    assert served(others) == frozenset()
    others.put(lease(5))
    others.keep_only("Lease", None, set(), "6")
    assert served(others) == frozenset()


def test_a_holder_that_died_is_read_once_to_make_sure_and_then_left_alone(clock: Clock) -> None:
    server = Leases(lease(1))
    others = watching(server)
    assert served(others) == {"team-a"}
    for _ in range(5):
        clock.now += LATER
        assert served(others) == frozenset()
    assert server.lists == 1
    others.put(lease(2))
    assert served(others) == {"team-a"}, "it is back"


def test_a_watch_that_died_is_not_taken_for_a_holder_that_died(clock: Clock) -> None:
    server = Leases(lease(1))
    others = watching(server)
    server.leases = [lease(9)]
    clock.now += LATER
    assert served(others) == {"team-a"}
    clock.now += LATER
    server.error = Unreachable("no answer")
    assert served(others) == {"team-a"}, "it is not certain"
    server.error = None
    assert served(others) == frozenset()


def test_without_the_right_to_see_them_no_namespace_counts_as_served_and_that_is_logged_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    others = OtherOperators(Leases(), NAME)  # type: ignore[arg-type]
    others._watch.refusal = ApiError(403, "Forbidden", "leases is forbidden")
    for _ in range(3):
        assert served(others) == frozenset()
    warnings = [one for one in caplog.messages if "may act beside this one: leases is forbidden" in one]
    assert len(warnings) == 1
