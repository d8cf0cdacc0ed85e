"""The earlier runs of a request at one stage, which decide where it may run next."""

from collections.abc import Sequence
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
    adapters: the LoRA adapters that its replica must have
    crashes: how many replicas crashed while they ran it and no other suspect (see `suspects`)
    """

    id: str = ""
    lost: set[Member] = field(default_factory=set)
    refused: set[Member] = field(default_factory=set)
    busy: dict[Member, RequestError] = field(default_factory=dict)
    failed: dict[Member, RequestError] = field(default_factory=dict)
    losses: int = 0
    crashes: int = 0
    adapters: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether every replica may get the request."""
        return not (self.lost or self.refused or self.busy or self.failed or self.adapters)

    @property
    def was_accepted(self) -> bool:
        """Whether a replica may have accepted the request already. From then on no queue is too full for it."""
        return bool(self.lost or self.refused or self.failed)

    @property
    def excluded(self) -> set[Member]:
        """The replicas that must not get the request again, because they refused it or it failed there."""
        return {*self.refused, *self.failed}

    def has_adapters(self, member: Member) -> bool:
        """Whether the replica has the adapters that the request selects, or has nothing that adapters could change."""
        card = member.replica.card
        return self.adapters.issubset(card.loras) or not (card.takes_loras or card.loras)

    def why_no_adapters(self, up: Sequence[Member]) -> RequestError | None:
        """The error for a request whose adapters no replica can have soon; None if one has them or loads them."""
        reasons = []
        for member in up:
            states = {state.source.name: state for state in member.replica.loras.loras}
            missing = [states.get(name) for name in self.adapters.difference(member.replica.card.loras)]
            failed = [state for state in missing if state is not None and state.phase in ("failed", "full")]
            if self.has_adapters(member) or (not failed and all(missing)):
                return None
            reasons += [state.reason for state in failed]
        names = ", ".join(map(repr, sorted(self.adapters)))
        why = f": {reasons[0]}" if reasons else ""
        return RequestError("unavailable", f"loras: no replica that is up has {names}{why}", "loras")

    def allows(self, member: Member) -> bool:
        """Whether the replica has the adapters, has neither lost, refused nor turned away the request, and it has not
        failed there.
        """
        was_tried = member in self.lost or member in self.busy or member in self.excluded
        return not was_tried and self.has_adapters(member)
