"""What a benchmark found, in figures: throughput, latencies and errors, of all requests and of each kind. Pure."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from omni_operator.commands.bench.load import Round, Sample

ALL = "all"


class Figures(BaseModel):
    """Of one kind of request, or of all. Times are seconds; None where no request succeeded. Throughput counts requests
    that succeeded, a second."""

    kind: str
    requests: int
    errors: int
    throughput: float
    tokens_per_second: float
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Report(BaseModel):
    """What one pipeline did: of all first, then by kind."""

    url: str
    seconds: float
    figures: list[Figures]
    failures: dict[str, int]

    @property
    def all(self) -> Figures:
        return self.figures[0]


def report(url: str, rounds: Sequence[Round]) -> Report:
    """The figures of a pipeline's rounds together."""
    samples = [sample for one in rounds for sample in one.samples]
    seconds = sum(one.seconds for one in rounds)
    kinds = sorted({sample.kind for sample in samples})
    figures = [of(ALL, samples, seconds)]
    if len(kinds) > 1:
        figures += [of(kind, [sample for sample in samples if sample.kind == kind], seconds) for kind in kinds]
    failures = Counter(sample.error for sample in samples if sample.error)
    return Report(url=url, seconds=seconds, figures=figures, failures=dict(failures.most_common()))


def of(kind: str, samples: Sequence[Sample], seconds: float) -> Figures:
    """The figures of these samples."""
    latencies = sorted(sample.latency for sample in samples if sample.error is None)
    return Figures(
        kind=kind,
        requests=len(samples),
        errors=len(samples) - len(latencies),
        throughput=len(latencies) / seconds if seconds else 0.0,
        tokens_per_second=sum(sample.tokens for sample in samples) / seconds if seconds else 0.0,
        mean=statistics.fmean(latencies) if latencies else None,
        p50=percentile(latencies, 50),
        p95=percentile(latencies, 95),
        p99=percentile(latencies, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The smallest value that so many percent are not above (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def ratios(first: Report, second: Report) -> dict[str, Any]:
    """The second pipeline's figures as multiples of the first's."""
    names = ("throughput", "mean", "p50", "p95", "p99")
    pairs = {name: (getattr(first.all, name), getattr(second.all, name)) for name in names}
    return {name: theirs / own if own and theirs is not None else None for name, (own, theirs) in pairs.items()}
