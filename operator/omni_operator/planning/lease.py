"""Leader election: decides what an operator does about the Lease that several operators share. Pure.

The clocks of two machines are never compared. An operator considers a holder dead if the Lease has not changed for its
duration, by the operator's own clock. A holder that cannot renew stops acting well before that.
"""

from dataclasses import dataclass
from typing import Literal

from omni_operator.crd.objects import Object

LEASE_SECONDS = 15
"""How long a Lease is valid without renewal."""
RENEW_SECONDS = 10.0
"""Time after its last successful renewal at which a holder stops acting."""
RETRY_SECONDS = 2.0
"""Time between two looks at the Lease."""

Step = Literal["create", "renew", "take", "wait"]


@dataclass(frozen=True)
class LeaseVersion:
    """A version of the Lease, and when this operator first saw it (monotonic, in seconds)."""

    version: str
    first_seen: float


def observe_lease(lease: Object | None, before: LeaseVersion | None, now: float) -> LeaseVersion | None:
    """The version of a Lease that was just read; None if there is no Lease. `before`: the result of the last call."""
    if lease is None:
        return None
    version = str(lease["metadata"].get("resourceVersion", ""))
    return before if before and before.version == version else LeaseVersion(version, now)


def next_step(lease: Object | None, observed: LeaseVersion | None, identity: str, now: float) -> Step:
    """What the operator `identity` does about a Lease. `observed`: the result of `observe_lease` for it."""
    if lease is None or observed is None:
        return "create"
    if (lease.get("spec") or {}).get("holderIdentity") == identity:
        return "renew"
    return "wait" if is_held(lease, observed, now) else "take"


def is_held(lease: Object, observed: LeaseVersion, now: float) -> bool:
    """Whether the Lease has a holder that has renewed it in time. `observed`: the result of `observe_lease` for it."""
    spec = lease.get("spec") or {}
    duration = spec.get("leaseDurationSeconds") or LEASE_SECONDS
    return bool(spec.get("holderIdentity")) and now - observed.first_seen < duration


def is_leading(renewed: float | None, now: float) -> bool:
    """Whether a holder may act that last renewed at `renewed`; None for never."""
    return renewed is not None and now - renewed < RENEW_SECONDS


def lease_object(lease: Object | None, name: str, namespace: str, holder: str, time: str) -> Object:
    """The Lease to write for a holder; an empty holder releases it. `time` is RFC 3339 with microseconds."""
    previous = (lease or {}).get("spec") or {}
    is_new_holder = previous.get("holderIdentity") != holder
    metadata = dict((lease or {}).get("metadata") or {"name": name, "namespace": namespace})
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": time if is_new_holder else previous.get("acquireTime", time),
            "renewTime": time,
            "leaseTransitions": previous.get("leaseTransitions", 0) + (1 if is_new_holder and holder else 0),
        },
    }
