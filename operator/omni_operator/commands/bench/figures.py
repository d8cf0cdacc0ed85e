"""The results of a benchmark in figures: throughput, latencies and errors, for all requests and for each kind. Pure."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from omni_operator.commands.bench.load import Round, Sample

ALL_KINDS = "all"


class Figures(BaseModel):
    """The figures of one kind of request, or of all.

    `throughput` counts requests that succeeded, per second. Times are in seconds, None if no request succeeded.
    """

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
    """The results of one pipeline. The first figures are those of all requests, the others those of each kind."""

    url: str
    seconds: float
    figures: list[Figures]
    failures: dict[str, int]

    @property
    def all(self) -> Figures:
        return self.figures[0]


def build_report(url: str, rounds: Sequence[Round]) -> Report:
    """The results of all rounds of a pipeline together."""
    samples = [sample for each in rounds for sample in each.samples]
    seconds = sum(each.seconds for each in rounds)
    kinds = sorted({sample.kind for sample in samples})
    figures = [figures_of(ALL_KINDS, samples, seconds)]
    if len(kinds) > 1:
        figures += [figures_of(kind, [sample for sample in samples if sample.kind == kind], seconds) for kind in kinds]
    failures = Counter(sample.error for sample in samples if sample.error)
    return Report(url=url, seconds=seconds, figures=figures, failures=dict(failures.most_common()))


def figures_of(kind: str, samples: Sequence[Sample], seconds: float) -> Figures:
    """The figures of these samples, which were taken in `seconds`."""
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
    """The percentile of sorted values by the nearest-rank method; None if there are no values."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def ratios(first: Report, second: Report) -> dict[str, Any]:
    """The second pipeline's figures divided by the first's; None if that is not possible."""
    names = ("throughput", "mean", "p50", "p95", "p99")
    pairs = {name: (getattr(first.all, name), getattr(second.all, name)) for name in names}
    return {name: after / before if before and after is not None else None for name, (before, after) in pairs.items()}
