"""One replica as its stage's pool sees it: its last report, the connection to it, and the requests that it runs."""

from dataclasses import dataclass, field
from typing import Protocol

from omni_worker.coordinator.loras import WantedLoras
from omni_worker.coordinator.messages import Replica, ReplicaState
from omni_worker.orchestrator.outliers import RunRecord
from omni_worker.replica.client import OnUpdate
from omni_worker.replica.wire.messages import Trace
from omni_worker.requests import GenerationParams, GenerationResult

MAX_OTHER_BITS = 15


class Connection(Protocol):
    """A connection to a replica, or to a server that takes the place of one. ReplicaClient describes its methods."""

    @property
    def in_flight(self) -> int: ...

    async def generate(
        self, id: str, params: GenerationParams, on_update: OnUpdate, refusable: bool, trace: Trace | None
    ) -> GenerationResult: ...

    async def hand_back(self) -> None: ...

    async def want_loras(self, wanted: WantedLoras) -> None: ...

    def lose(self, message: str, reason: str = "left") -> None: ...

    async def close(self) -> None: ...


@dataclass(eq=False)
class Member:
    """A replica and the connection to it.

    in_flight: requests of this head that were sent to the replica, or are about to be
    other_requests: requests on the replica, by its last report, that are not this head's
    is_listed: whether the pool counts it as up
    record: how the last runs on it ended, and whether it is ejected for that
    suspect: the suspected request that runs on the replica, if any (see `suspects`)
    suspect_at_disconnect: the value of `suspect` when the connection last closed
    """

    replica: Replica
    client: Connection
    is_connected: bool = True
    in_flight: int = 0
    other_requests: int = 0
    is_listed: bool = False
    record: RunRecord = field(default_factory=RunRecord)
    suspect: str | None = None
    suspect_at_disconnect: str | None = None
    _peak_in_flight: int = 0  # the largest `in_flight` since the last report

    @property
    def name(self) -> str:
        """The replica's number within its stage, as people see it."""
        return str(self.replica.replica_id)

    @property
    def is_up(self) -> bool:
        """Whether the replica may get requests."""
        return self.replica.state is ReplicaState.UP and self.is_connected

    @property
    def load(self) -> int:
        """The rank for balancing: this head's own requests, and between equals the order of magnitude of the others.

        The two are not added up. If every head spreads its own requests evenly, the sum is even. If each head made up
        for what the others sent a second ago, all of them would choose the same replica.
        """
        return self.in_flight * (MAX_OTHER_BITS + 1) + min(MAX_OTHER_BITS, self.other_requests.bit_length())

    def add_request(self) -> None:
        """Count a request of this head that is about to be sent to the replica."""
        self.in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self.in_flight)

    def update(self, replica: Replica) -> None:
        """Take the replica's new report.

        Of the requests that it counts, at most as many can be this head's as were in flight at one time since the last
        report. The rest belong to others.
        """
        if replica.load != self.replica.load:
            reported = replica.load.queue_length + replica.load.running
            self.other_requests = max(0, reported - self._peak_in_flight)
            self._peak_in_flight = self.in_flight
        self.replica = replica
