"""Requests that may be what crashes replicas: how they are kept apart, and when they are given up.

A request that ran on CRASHES_TO_SUSPECT replicas when they crashed is a suspect. A replica runs at most one suspect at
a time, so the next crash shows which suspect was the cause and clears the others. The last replica that is up gets a
suspect only after SECOND_REPLICA_SECONDS without a second one.
"""

from collections.abc import Sequence

from omni_worker.errors import ReplicaLost, RequestError
from omni_worker.orchestrator.member import Member
from omni_worker.orchestrator.run_history import RunHistory

CRASHES_TO_SUSPECT = 2
MAX_CRASHES = CRASHES_TO_SUSPECT + 1  # in the last of them the request was the only suspect
MAX_LOSSES = 10  # replicas that a request may lose for any reason
SECOND_REPLICA_SECONDS = 20.0


def is_suspect(history: RunHistory) -> bool:
    """Whether the request must run apart from other suspects."""
    return history.crashes >= CRASHES_TO_SUSPECT


def choose_for_suspect(up: Sequence[Member], history: RunHistory, may_use_last: bool = False) -> Member | None:
    """The least loaded replica without a suspect, preferably one that the request has not lost before.

    Returns None if there is none, or if only one replica is up and the request must not use it yet.
    """
    possible = [member for member in up if member not in history.excluded and history.has_adapters(member)]
    free = [member for member in possible if member.suspect is None]
    if len(up) < 2 and not may_use_last:
        return None
    return min(free, key=lambda member: (member in history.lost, member.load), default=None)


def record_loss(history: RunHistory, member: Member, error: ReplicaLost) -> None:
    """Record that `member` was lost while it ran the request. Raises RequestError if the request must not run again.

    A crash counts only if the request was the only suspect on the replica, or if no suspect ran there.
    """
    history.lost.add(member)
    history.losses += 1
    history.busy.clear()  # the request was accepted once, so no replica may turn it away from now on
    if error.reason == "crashed" and member.suspect_at_disconnect in (None, history.id):
        history.crashes += 1
    if history.crashes == MAX_CRASHES:
        raise RequestError(
            "failed",
            f"{history.crashes} replicas crashed while they ran this request, the last one with no other that could be "
            "the cause; it is not tried again",
        ) from error
    if history.losses == MAX_LOSSES:
        raise RequestError("failed", f"the request lost {history.losses} replicas; it is not tried again") from error
