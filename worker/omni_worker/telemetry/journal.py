"""What became of one request, for the log: a line of JSON when it has ended, with its stages, replicas and times."""

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

log = logging.getLogger("omni_worker.requests")


@dataclass
class Visit:
    """A request at one stage: the replicas that ran it, one after another, and its seconds waiting for one and in all.

    steps: denoising steps, or tokens, that were done
    """

    stage: str
    replicas: list[str] = field(default_factory=list)
    waited: float = 0.0
    seconds: float = 0.0
    steps: int = 0


@dataclass
class Journal:
    """A request's way through the stages so far; `trace_id` where spans of it are told."""

    id: str
    trace_id: str | None = None
    began: float = field(default_factory=time.monotonic)
    visits: list[Visit] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Since it was admitted."""
        return time.monotonic() - self.began

    def visit(self, stage: str) -> Visit:
        """It comes to a stage."""
        self.visits.append(Visit(stage))
        return self.visits[-1]

    def write(self, outcome: str, error: str | None = None) -> None:
        """Log its end: `outcome` is completed, or the kind of its error."""
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
        log.info(json.dumps(line if error is None else {**line, "error": error}, ensure_ascii=False))
