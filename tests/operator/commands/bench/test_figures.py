"""The figures of a benchmark."""

from omni_operator.commands.bench.figures import build_report, percentile
from omni_operator.commands.bench.load import Round, Sample


def test_figures() -> None:
    samples = [Sample("a", i, float(i)) for i in range(1, 101)] + [Sample("a", 1, 9.0, error="429: full")]
    found = build_report("u", [Round(samples[:50], 30.0), Round(samples[50:], 20.0)])
    assert (found.all.p50, found.all.p95, found.all.p99, found.all.mean) == (50, 95, 99, 50.5)
    assert (found.all.requests, found.all.errors, found.all.throughput) == (101, 1, 2.0)
    assert found.failures == {"429: full": 1}
    assert percentile([], 50) is None
