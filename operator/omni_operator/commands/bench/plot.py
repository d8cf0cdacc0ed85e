"""Plots a benchmark: the distribution of the latencies, and the latencies over time. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from omni_operator.commands.bench.load import Round


class MatplotlibMissing(Exception):
    """matplotlib is not installed."""

    exit_code = 1


def require_matplotlib() -> None:
    """Raise MatplotlibMissing if it is not installed. Call this before a long benchmark runs in vain."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise MatplotlibMissing("--plot needs matplotlib; install it with: pip install matplotlib") from None


def plot(file: Path, results: Sequence[tuple[str, Sequence[Round]]]) -> None:
    """Write the plot of one or two pipelines, each with its label. The suffix of the file chooses the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    distribution, over_time = figure.subplots(1, 2)
    for label, rounds in results:
        successful = [sample for each in rounds for sample in each.samples if sample.error is None]
        latencies = sorted(sample.latency for sample in successful)
        fractions = [(i + 1) / len(latencies) for i in range(len(latencies))]
        distribution.step(latencies, fractions, where="post", label=label)
        over_time.scatter(*_latencies_over_time(rounds), s=8, label=label)
    distribution.set(xlabel="latency [s]", ylabel="part of the requests", ylim=(0, 1), title="Latency")
    over_time.set(xlabel="time under load [s]", ylabel="latency [s]", title="Over time")
    for axes in (distribution, over_time):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120)


def _latencies_over_time(rounds: Sequence[Round]) -> tuple[list[float], list[float]]:
    """When each successful request ended, with the rounds placed end to end, and its latency."""
    times: list[float] = []
    latencies: list[float] = []
    round_start = 0.0
    for each in rounds:
        successful = [sample for sample in each.samples if sample.error is None]
        times += [round_start + sample.at for sample in successful]
        latencies += [sample.latency for sample in successful]
        round_start += each.seconds
    return times, latencies
