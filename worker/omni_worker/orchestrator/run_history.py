"""The earlier runs of a request at one stage, which decide where it may run next."""

from dataclasses import dataclass, field

from omni_worker.errors import RequestError
from omni_worker.orchestrator.member import Member


@dataclass
class RunHistory:
    """The replicas that have already had a request at one stage.

    lost: replicas that were lost while they ran it; it returns to one only if there is no other
    refused: replicas that accept nothing new; it never returns to them
    busy: replicas that had no room, with their answers
    failed: replicas on which it failed, with the errors; it never returns to them
    losses: how often a run of it was lost with its replica
    crashes: how many replicas crashed while they ran it and no other suspect (see `suspects`)
    """

    id: str = ""
    lost: set[Member] = field(default_factory=set)
    refused: set[Member] = field(default_factory=set)
    busy: dict[Member, RequestError] = field(default_factory=dict)
    failed: dict[Member, RequestError] = field(default_factory=dict)
    losses: int = 0
    crashes: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether every replica may get the request."""
        return not (self.lost or self.refused or self.busy or self.failed)

    @property
    def was_accepted(self) -> bool:
        """Whether a replica may have accepted the request already. From then on no queue is too full for it."""
        return bool(self.lost or self.refused or self.failed)

    @property
    def excluded(self) -> set[Member]:
        """The replicas that must not get the request again, because they refused it or it failed there."""
        return {*self.refused, *self.failed}

    def allows(self, member: Member) -> bool:
        """Whether the replica has neither lost, refused nor turned away the request, and it has not failed there."""
        return member not in self.lost and member not in self.busy and member not in self.excluded
