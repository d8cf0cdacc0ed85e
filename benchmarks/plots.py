"""Draws the committed results: one SVG a benchmark, of ratios, readable on a light and on a dark page.

python -m benchmarks.plots
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from benchmarks.common import RESULTS, console
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

THIN = {"lw": 0.8}
INK = "#808890"  # has enough contrast with white and with black
COLOURS = {
    "diffusers": "#808890",
    "request mode": "#b07aa1",
    "peer's policy": "#e15759",
    "fifo": "#3b8ad9",
    "drr": "#2aa198",
    "srpt": "#e58606",
    "edf": "#5aa832",
}
STYLE: Any = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "grid.color": INK,
    "grid.alpha": 0.25, "axes.axisbelow": True, "axes.titlesize": 10, "font.size": 9, "font.family": "sans-serif",
    "legend.frameon": False, "savefig.transparent": True, "svg.fonttype": "none", "svg.hashsalt": "omni",
}  # fmt: skip


def throughput(figures: dict[str, Any]) -> Figure:
    """Bars of requests per second against plain diffusers, by image tokens."""
    cells = figures["cells"]
    names = [name for name in next(iter(cells.values()))["systems"] if name != "diffusers"]
    colours = [COLOURS["request mode"], COLOURS["peer's policy"], "#a8cdf0", "#6fade6", "#3b8ad9", "#1f5f9e"]
    figure, axes = plt.subplots(figsize=(8.5, 3.6))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        measured = [cell["systems"][name] for cell in cells.values()]
        places = [place + (i - (len(names) - 1) / 2) * width for place in range(len(cells))]
        heights = [one["median"] for one in measured]
        reach = [
            [one["median"] - one["low"] for one in measured],
            [one["high"] - one["median"] for one in measured],
        ]
        axes.bar(
            places, heights, width * 0.92, yerr=reach, color=colours[i], ecolor=INK, error_kw={"lw": 0.8}, label=name
        )
        for place, height in zip(places, heights, strict=True):
            axes.text(place, height + 0.07, f"{height:.1f}", ha="center", fontsize=7)
    axes.axhline(1.0, color=INK, lw=1)
    axes.set_xticks(range(len(cells)), list(cells))
    axes.set_xlabel("image tokens of a request (median, range over sweeps)")
    axes.set_ylabel("requests per second,\nplain diffusers = 1")
    axes.legend(ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def trace_replay(figures: dict[str, Any]) -> Figure:
    """By how much latencies are below plain diffusers' and the peer's policy's, and who is in time, by load."""
    loads = figures["loads"]
    panels: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
        ("mean latency: plain diffusers / own", lambda row: row["better_than"]["diffusers"]["mean"]["median"]),
        ("p99 latency: plain diffusers / own", lambda row: row["better_than"]["diffusers"]["p99"]["median"]),
        ("mean latency: peer's policy / own", lambda row: row["better_than"]["peer's policy"]["mean"]["median"]),
        ("requests in time (%)", lambda row: 100 * row["in_time"]),
    )
    figure, grid = plt.subplots(1, len(panels), figsize=(13, 3.6))
    for axes, (title, value) in zip(grid, panels, strict=True):
        for name, colour in COLOURS.items():
            # Above capacity a latency says how long the trace was, and nothing else.
            shown = {load: row for load, row in loads.items() if float(load) < 1.0 or not title.endswith("own")}
            values = [value(row[name]) for row in shown.values()]
            axes.plot(list(map(float, shown)), values, "o-", ms=3.5, lw=1.6, color=colour, label=name)
        axes.set_title(title)
        axes.set_xticks(list(map(float, shown)), list(shown))
        axes.set_xlabel("load, as a share of sequential capacity")
        if title.endswith("own"):
            _ratio_axis(axes)
    grid[0].set_ylabel("ratio (higher is better)")
    figure.legend(*grid[0].get_legend_handles_labels(), ncols=len(COLOURS), loc="outside lower center")
    return figure


def step_overhead(figures: dict[str, Any]) -> Figure:
    """Time against plain diffusers at batch size 1, and where our own time goes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for i, (name, colour) in enumerate((("interception", COLOURS["fifo"]), ("engine", COLOURS["srpt"]))):
        rows = [row[name] for row in figures["ratios"].values()]
        places = [place + (i - 0.5) * 0.2 for place in range(len(rows))]
        reach = [[row["median"] - row["low"] for row in rows], [row["high"] - row["median"] for row in rows]]
        left.errorbar(
            places, [row["median"] for row in rows], reach, fmt="o", ms=5, capsize=3, color=colour, label=name
        )
    left.axhline(1.0, color=INK, lw=1)
    left.axhline(1.03, color=COLOURS["peer's policy"], lw=1, ls="--")
    left.set_xticks(range(len(figures["ratios"])), list(figures["ratios"]))
    left.set_ylabel("time of one request, plain diffusers = 1")
    left.set_title("batch size 1 (dashed: the 1.03 we want)")
    left.legend(loc="upper right")
    cells = figures["own_microseconds_a_step"]
    parts = ("model", "pipeline", "own")
    below = [0.0] * len(cells)
    for part, colour in zip(parts, (INK, "#b6bcc2", COLOURS["srpt"]), strict=True):
        whole = [sum(cell[name]["median"] for name in parts) for cell in cells.values()]
        shares = [100 * cell[part]["median"] / all_ for cell, all_ in zip(cells.values(), whole, strict=True)]
        right.bar(range(len(cells)), shares, 0.6, bottom=below, color=colour, label=part)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    right.set_xticks(range(len(cells)), list(cells))
    right.set_ylabel("% of the time of a step")
    right.set_title("where the time goes")
    right.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure


def soak(figures: dict[str, Any]) -> Figure:
    """Resident memory over time."""
    samples = figures["samples"]
    figure, axes = plt.subplots(figsize=(7, 2.6))
    axes.plot(samples["minute"], samples["memory_mb"], color=COLOURS["fifo"], lw=1.4)
    axes.set_ylim(0, 1.15 * max(samples["memory_mb"]))
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory (MB)")
    axes.set_title(f"{figures['requests']} requests; {figures['memory_mb_a_minute']:+.2f} MB a minute once settled")
    return figure


def _ratio_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.axhline(1.0, color=INK, lw=1)
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}x"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw(folder: Path) -> None:
    """Draw whatever there are results of."""
    mpl.rcParams.update(STYLE)
    for plot in (throughput, trace_replay, step_overhead, soak):
        source = folder / f"{plot.__name__}.json"
        if source.is_file():
            figure = plot(json.loads(source.read_text()))
            figure.set_layout_engine("constrained")
            target = source.with_suffix(".svg")
            figure.savefig(target, metadata={"Date": None})
            plt.close(figure)
            console.print(f"drawn: {target}, {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    draw(RESULTS)
