"""Finds the replica whose recent runs fail more often than its neighbours' do, as Envoy's outlier detection does.

Only a failure that another replica made good counts: the request failed here and then succeeded there. A request that
fails everywhere is itself the cause, so no client can have a replica ejected. An ejected replica gets no requests for
BASE_EJECTION_SECONDS, and longer each further time, unless no other replica can take them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

WINDOW = 20  # the runs that count
MIN_FAILURES = 3
MARGIN = 0.2  # by how much its share of failures must exceed the mean of its neighbours
BASE_EJECTION_SECONDS = 30.0
MAX_EJECTION_SECONDS = 300.0


@dataclass
class RunRecord:
    """How the last runs on one replica ended.

    succeeded: of each run, whether it succeeded; the oldest first
    ejections: how often it was ejected since it last completed WINDOW runs without a failure
    ejected_until: on the clock of the caller; None if it is not ejected
    """

    succeeded: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    ejections: int = 0
    ejected_until: float | None = None

    @property
    def is_ejected(self) -> bool:
        """Whether the replica gets requests only if no other can take them."""
        return self.ejected_until is not None

    @property
    def failure_rate(self) -> float:
        """The share of the last runs that failed; 0 if there were none."""
        return self.succeeded.count(False) / len(self.succeeded) if self.succeeded else 0.0

    def add(self, succeeded: bool) -> None:
        """Record the end of a run."""
        self.succeeded.append(succeeded)
        if self.ejections and len(self.succeeded) == WINDOW and all(self.succeeded):
            self.ejections = 0

    def stands_out(self, others: Sequence["RunRecord"]) -> bool:
        """Whether it fails more often than the other replicas that are up, and one more of them may be ejected.

        At most half of the replicas are ejected at one time, and never the only one.
        """
        if self.is_ejected or not others:
            return False
        if 1 + sum(other.is_ejected for other in others) > max(1, (1 + len(others)) // 2):
            return False
        mean = sum(other.failure_rate for other in others) / len(others)
        return self.succeeded.count(False) >= MIN_FAILURES and self.failure_rate > mean + MARGIN

    def eject(self, now: float) -> float:
        """Eject the replica. Returns for how many seconds."""
        seconds = min(MAX_EJECTION_SECONDS, BASE_EJECTION_SECONDS * 2.0**self.ejections)
        self.ejections += 1
        self.ejected_until = now + seconds
        self.succeeded.clear()
        return seconds

    def readmit(self) -> None:
        """End the ejection. The replica starts with an empty record."""
        self.ejected_until = None
        self.succeeded.clear()
