"""Of several operators one acts: it takes the Lease if nobody holds it, and stops before another may start."""

from typing import Any

import pytest

from omni_operator.planning.lease import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    LeaseVersion,
    Step,
    is_held,
    is_leading,
    lease_object,
    next_step,
    observe_lease,
)

NOW = "2026-01-01T00:00:00.000000Z"
LATER = "2026-01-01T00:00:02.000000Z"


def lease(holder: str | None, version: str = "1", **more: Any) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": LEASE_SECONDS, **more}
    return {"metadata": {"name": "omni-operator", "resourceVersion": version}, "spec": spec}


# name: (the Lease, seconds for which it has not changed, what to do)
ROWS: dict[str, tuple[dict[str, Any] | None, float, Step]] = {
    "there is none": (None, 0, "create"),
    "we hold it": (lease("us"), 0, "renew"),
    "we hold it, and were away for long": (lease("us"), 1000, "renew"),
    "another holds it": (lease("other"), 5, "wait"),
    "another held it, and renews no more": (lease("other"), LEASE_SECONDS, "take"),
    "another gave it back": (lease(""), 0, "take"),
    "nobody ever held it": (lease(None), 0, "take"),
    "another holds it for longer": (lease("other", leaseDurationSeconds=60), 30, "wait"),
    "it says nothing": ({"metadata": {"resourceVersion": "1"}}, 0, "take"),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_to_do_about_a_lease(row: str) -> None:
    found, age, expected = ROWS[row]
    assert next_step(found, LeaseVersion("1", 100.0) if found else None, "us", 100.0 + age) == expected


def test_only_a_change_of_the_lease_counts_and_not_what_its_clock_says() -> None:
    first = observe_lease(lease("other", "1"), None, 10.0)
    assert observe_lease(lease("other", "1"), first, 20.0) == LeaseVersion("1", 10.0)
    assert observe_lease(lease("other", "2"), first, 20.0) == LeaseVersion("2", 20.0)
    assert observe_lease(None, first, 20.0) is None


def test_a_holder_stops_before_another_begins() -> None:
    assert RENEW_SECONDS < LEASE_SECONDS
    assert is_leading(5.0, 5.0 + RENEW_SECONDS - 0.1)
    assert not is_leading(5.0, 5.0 + RENEW_SECONDS)
    assert not is_leading(None, 5.0)


def test_a_new_holder_is_counted_and_a_renewal_keeps_since_when_it_holds() -> None:
    first = lease_object(None, "omni-operator", "gallery", "us", NOW)
    assert first["spec"]["leaseTransitions"] == 1
    again = lease_object(first, "omni-operator", "gallery", "us", LATER)
    assert again["spec"] == {**first["spec"], "renewTime": LATER}
    given_back = lease_object(again, "omni-operator", "gallery", "", LATER)
    assert given_back["spec"]["leaseTransitions"] == 1
    other = lease_object(given_back, "omni-operator", "gallery", "other", LATER)
    assert (other["spec"]["acquireTime"], other["spec"]["leaseTransitions"]) == (LATER, 2)


def test_a_write_carries_the_version_that_was_read() -> None:
    assert lease_object(lease("other", "7"), "n", "ns", "us", NOW)["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize("row", [row for row, (found, _, _) in ROWS.items() if found])
def test_it_is_held_while_it_is_renewed_whoever_looks(row: str) -> None:
    found, unchanged, step = ROWS[row]
    assert found is not None
    observed = LeaseVersion("1", 100.0)
    assert is_held(found, observed, 100.0 + unchanged) is (
        step == "wait" or (step == "renew" and unchanged < LEASE_SECONDS)
    )
