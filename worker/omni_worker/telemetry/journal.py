"""The log line of one request: written as JSON when the request ends, with its outcome, stages, replicas and times."""

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

log = logging.getLogger("omni_worker.requests")


@dataclass
class StageVisit:
    """A request at one stage. The fields are those of the log line.

    replicas: the replicas that ran it, in order
    waited: seconds that it waited for a replica
    seconds: seconds at the stage in all
    steps: denoising steps or tokens
    """

    stage: str
    replicas: list[str] = field(default_factory=list)
    waited: float = 0.0
    seconds: float = 0.0
    steps: int = 0


@dataclass
class Journal:
    """A request's visits of stages so far.

    trace_id: set if the request is traced
    client_id: the client's own id for it, if it sent one
    """

    id: str
    trace_id: str | None = None
    client_id: str | None = None
    began: float = field(default_factory=time.monotonic)
    visits: list[StageVisit] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds since the request was admitted."""
        return time.monotonic() - self.began

    def enter_stage(self, stage: str) -> StageVisit:
        """Begin the visit of a stage, and return it for the caller to fill in."""
        self.visits.append(StageVisit(stage))
        return self.visits[-1]

    def write(self, outcome: str, error: str | None = None) -> None:
        """Write the log line. `outcome` is `completed`, or the kind of the error."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": "request",
            "id": self.id,
            "outcome": outcome,
            "seconds": round(self.seconds, 4),
            "stages": [
                {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(visit).items()}
                for visit in self.visits
            ],
        }
        if self.trace_id is not None:
            line["trace_id"] = self.trace_id
        if self.client_id is not None:
            line["client_id"] = self.client_id
        log.info(json.dumps(line if error is None else {**line, "error": error}, ensure_ascii=False))
