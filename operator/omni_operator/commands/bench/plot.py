"""A picture of a benchmark: how latency is distributed, and how it went over time. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from omni_operator.commands.bench.load import Round


class NoMatplotlib(Exception):
    """It is not installed."""

    exit_code = 1


def require_matplotlib() -> None:
    """Raise NoMatplotlib where it is missing, before a benchmark has run for nothing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise NoMatplotlib("--plot needs matplotlib; install it with: pip install matplotlib") from None


def plot(file: Path, runs: Sequence[tuple[str, Sequence[Round]]]) -> None:
    """Write the picture of one or two pipelines' rounds; the file's ending is its format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    distribution, course = figure.subplots(1, 2)
    for name, rounds in runs:
        good = [sample for one in rounds for sample in one.samples if sample.error is None]
        ordered = sorted(sample.latency for sample in good)
        distribution.step(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], where="post", label=name)
        course.scatter(*_over_time(rounds), s=8, label=name)
    distribution.set(xlabel="latency [s]", ylabel="part of the requests", ylim=(0, 1), title="Latency")
    course.set(xlabel="time under load [s]", ylabel="latency [s]", title="Over time")
    for axes in (distribution, course):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120)


def _over_time(rounds: Sequence[Round]) -> tuple[list[float], list[float]]:
    """When each request that succeeded was answered, its pipeline's rounds laid end to end; and its latency."""
    times, latencies, before = [], [], 0.0
    for one in rounds:
        good = [sample for sample in one.samples if sample.error is None]
        times += [before + sample.at for sample in good]
        latencies += [sample.latency for sample in good]
        before += one.seconds
    return times, latencies
