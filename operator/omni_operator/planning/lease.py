"""Which of several operators acts: what to do about the Lease they share, from what it says and since when. Pure.

The clocks of two machines are never compared. A holder is gone when its Lease has not changed for as long as it is
valid, by the clock of the one who looks; and a holder that could not renew stops acting well before that.
"""

from dataclasses import dataclass
from typing import Literal

from omni_operator.crd.objects import Object

LEASE_SECONDS = 15
"""Time for which a Lease is valid, if nobody renews it."""
RENEW_SECONDS = 10.0
"""Time after its last renewal at which the holder stops acting."""
RETRY_SECONDS = 2.0

Step = Literal["create", "renew", "take", "wait"]


@dataclass(frozen=True)
class LeaseVersion:
    """A version of the Lease, and when it was first seen, on the clock of the one who looks."""

    version: str
    since: float


def observe_lease(lease: Object | None, before: LeaseVersion | None, now: float) -> LeaseVersion | None:
    """What is known of the Lease after another look at it."""
    if lease is None:
        return None
    version = str(lease["metadata"].get("resourceVersion", ""))
    return before if before and before.version == version else LeaseVersion(version, now)


def next_step(lease: Object | None, known: LeaseVersion | None, identity: str, now: float) -> Step:
    """`known`: what `seen` says of this lease."""
    if lease is None or known is None:
        return "create"
    if (lease.get("spec") or {}).get("holderIdentity") == identity:
        return "renew"
    return "wait" if is_held(lease, known, now) else "take"


def is_held(lease: Object, known: LeaseVersion, now: float) -> bool:
    """Whether somebody holds the Lease, as far as `known`, what `seen` says of it, goes."""
    spec = lease.get("spec") or {}
    valid = spec.get("leaseDurationSeconds") or LEASE_SECONDS
    return bool(spec.get("holderIdentity")) and now - known.since < valid


def is_leading(renewed: float | None, now: float) -> bool:
    """Whether a holder that renewed last at that time, or never, may act."""
    return renewed is not None and now - renewed < RENEW_SECONDS


def lease_object(lease: Object | None, name: str, namespace: str, holder: str, time: str) -> Object:
    """The Lease as this holder writes it; `time` in RFC 3339 with microseconds. No holder: for whoever comes first."""
    before = (lease or {}).get("spec") or {}
    is_new_holder = before.get("holderIdentity") != holder
    metadata = dict((lease or {}).get("metadata") or {"name": name, "namespace": namespace})
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": time if is_new_holder else before.get("acquireTime", time),
            "renewTime": time,
            "leaseTransitions": before.get("leaseTransitions", 0) + (1 if is_new_holder and holder else 0),
        },
    }
