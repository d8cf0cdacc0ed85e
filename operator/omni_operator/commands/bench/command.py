"""The command `omni bench`: reads its flags, runs the rounds, and prints what came out."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from omni_operator.client import endpoint
from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import GenerationFailed
from omni_operator.client.live_view import fetch
from omni_operator.commands import flags as finding
from omni_operator.commands.bench import figures, plot, work
from omni_operator.commands.bench.figures import Report
from omni_operator.commands.bench.load import Round, Sample, send
from omni_operator.commands.bench.work import BadWork, Work
from omni_operator.commands.models import Served
from omni_operator.commands.table import columns

HELP = """Load one or two running pipelines through their API, and measure throughput and latency.

Closed loop keeps --concurrency requests under way; --rate sends them as a Poisson process, whether others are answered
or not; --trace replays a file. Two addresses get the same requests in turns, forward and backward. The exit code is 1
where no request succeeded.

  omni bench --duration 30 --concurrency 8
  omni bench http://127.0.0.1:8000 --rate 5 --requests 200 --mix 4x32x32:3,20x64x64:1 --plot bench.png
  omni bench http://127.0.0.1:8000 http://127.0.0.1:9000 --output json
  omni bench --trace requests.jsonl --speed 2

A line of a trace is the body of a request with its time in seconds:
  {"at": 0.5, "prompt": "a red three", "size": "32x32", "num_inference_steps": 4, "seed": 7}"""

HEADER = ("PIPELINE", "REQUESTS OF", "COUNT", "ERRORS", "PER SECOND", "MEAN", "P50", "P95", "P99")
ROUNDS_OF_TWO = 4
DEFAULT_REQUESTS = 100


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "urls", nargs="*", metavar="URL", help="one or two addresses of an API (default: found, or $OMNI_URL)"
    )
    finding.add_name(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--concurrency", type=_count, default=4, metavar="N", help="closed loop: requests under way (default: 4)"
    )
    how.add_argument("--rate", type="positive", metavar="R", help="open loop: requests a second, as a Poisson process")
    how.add_argument("--trace", type=Path, metavar="FILE", help="replay the requests of a JSONL file at their times")
    parser.add_argument("--speed", type="positive", default=1.0, metavar="X", help="a trace's speed (default: 1)")
    parser.add_argument(
        "--mix", metavar="LIST", help="sizes and steps: STEPSxWxH[:WEIGHT],… (default: the model's own)"
    )
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn by chance (default: 0)")
    parser.add_argument("--requests", type=_count, metavar="N", help="requests in all, each pipeline (default: 100)")
    parser.add_argument("--duration", type="positive", metavar="SECONDS", help="or time in all, each pipeline")
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help="turns of each pipeline (default: 1, or 4 where there are two)"
    )
    parser.add_argument("--no-warm-up", action="store_true", help="do not begin with an uncounted request of each kind")
    finding.add_output(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the latencies, as .png or .svg")


def run(args: argparse.Namespace) -> int:
    require_usable(args)
    kinds = work.parse_mix(args.mix) if args.mix else []
    prompts = args.prompt or list(work.PROMPTS)
    trace = work.read_trace(args.trace, args.speed) if args.trace else None
    pipelines = found(args)
    if not args.no_warm_up:
        warm_up(pipelines, work.one_of_each(kinds, prompts) if trace is None else trace[:1])
    rounds = args.rounds or (1 if trace or len(pipelines) == 1 else ROUNDS_OF_TWO)
    seconds = args.duration / rounds if args.duration else None
    requests = None if args.duration and not args.requests else (args.requests or DEFAULT_REQUESTS)

    def works(number: int) -> Iterator[Work]:
        if trace is not None:
            return islice(trace, args.requests)
        own = work.endless(kinds, prompts, args.seed + number)
        own = work.arriving(own, args.rate, args.seed + number) if args.rate else own
        return islice(own, share(requests, rounds, number))

    total = len(trace[: args.requests]) * rounds if trace is not None else requests
    results = alternate(pipelines, works, args.concurrency, rounds, seconds, total)
    reports = [figures.report(where.url, of) for where, of in zip(pipelines, results, strict=True)]
    if args.plot:
        plot.plot(args.plot, list(zip(labels(reports), results, strict=True)))
    print(as_json(args, reports) if args.output == "json" else as_table(reports))
    return 0 if all(one.all.requests > one.all.errors for one in reports) else 1


def require_usable(args: argparse.Namespace) -> None:
    """Raise BadWork for flags that cannot be used together."""
    if len(args.urls) > 2:
        raise BadWork(f"{len(args.urls)} addresses: give one, or two to compare")
    if args.trace and args.mix:
        raise BadWork("--mix: a trace has its own sizes and steps; leave it out")
    if args.plot:
        plot.require_matplotlib()
        if args.plot.suffix not in (".png", ".svg", ".pdf"):
            raise BadWork(f"--plot {args.plot}: give a name that ends in .png, .svg or .pdf")
        if not args.plot.absolute().parent.is_dir():
            raise BadWork(f"--plot {args.plot}: there is no folder {args.plot.parent}; make it first")


def found(args: argparse.Namespace) -> list[Endpoint]:
    """The pipelines that are meant. Raises NoEndpoint, or GenerationFailed for an address where none answers."""
    pipelines = [endpoint.find(finding.wanted(args, url), 0.0, print) for url in (args.urls or [None])]
    for where in pipelines:
        with where.client() as client:
            fetch(client, where, "/v1/models", Served)
    return pipelines


def share(total: int | None, rounds: int, number: int) -> int | None:
    """How many requests a round has, so that all have about as many."""
    return None if total is None else total // rounds + (number < total % rounds)


def warm_up(pipelines: list[Endpoint], works: list[Work]) -> None:
    """Have each pipeline answer once, a request after the other. Raises GenerationFailed where one does not."""
    for where in pipelines:
        ready = [Work(one.kind, one.path, one.body) for one in works]
        for sample in send(where, iter(ready), 1, None, lambda _: None).samples:
            if sample.error:
                raise GenerationFailed(f"{where.description} cannot be measured ({sample.kind}): {sample.error}")


def alternate(
    pipelines: list[Endpoint],
    works: Callable[[int], Iterator[Work]],
    concurrency: int,
    rounds: int,
    seconds: float | None,
    total: int | None,
) -> list[list[Round]]:
    """Each pipeline's rounds, run in turns: forward, then backward, so that a drift of the machine hits both alike."""
    results: list[list[Round]] = [[] for _ in pipelines]
    console = Console(stderr=True)
    text = TextColumn("{task.description} {task.completed:.0f} answered, {task.fields[errors]} errors")
    begin = time.monotonic()
    with Progress(text, BarColumn(), TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("bench:", total=None if total is None else total * len(pipelines), errors=0)
        errors = 0

        def heard(sample: Sample) -> None:
            nonlocal errors
            errors += sample.error is not None
            progress.update(task, advance=1, errors=errors)

        for number in range(rounds):
            order = range(len(pipelines)) if number % 2 == 0 else reversed(range(len(pipelines)))
            for index in order:
                results[index].append(send(pipelines[index], works(number), concurrency, seconds, heard))
    if not console.is_terminal:
        count = sum(len(one.samples) for of in results for one in of)
        print(f"{count} requests answered in {time.monotonic() - begin:.1f} s", file=sys.stderr)
    return results


def labels(reports: list[Report]) -> list[str]:
    """A name for each pipeline: its address, told apart where they are the same."""
    urls = [one.url for one in reports]
    return urls if len(set(urls)) == len(urls) else [f"{url} ({number})" for number, url in enumerate(urls, 1)]


def as_json(args: argparse.Namespace, reports: list[Report]) -> str:
    """All figures, and what was asked for."""
    flags = ("rate", "mix", "seed", "requests", "duration", "rounds", "speed")
    asked: dict[str, Any] = {name: getattr(args, name) for name in flags}
    asked["concurrency"] = None if args.rate or args.trace else args.concurrency
    asked["trace"] = str(args.trace) if args.trace else None
    content: dict[str, Any] = {"asked": asked, "pipelines": [one.model_dump() for one in reports]}
    if len(reports) == 2:
        content["second_to_first"] = figures.ratios(*reports)
    return json.dumps(content, indent=2)


def as_table(reports: list[Report]) -> str:
    """All figures, for people; with two pipelines, what the second is of the first; and what went wrong."""
    rows: list[tuple[object, ...]] = [
        (
            label, one.kind, one.requests, one.errors, f"{one.throughput:.2f}",
            *(None if value is None else f"{value:.3f} s" for value in (one.mean, one.p50, one.p95, one.p99)),
        )
        for label, report in zip(labels(reports), reports, strict=True)
        for one in report.figures
    ]  # fmt: skip
    if len(reports) == 2:
        ratios = [None if value is None else f"{value:.2f}×" for value in figures.ratios(*reports).values()]
        rows.append(("second / first", figures.ALL, None, None, *ratios))
    lines = [columns(HEADER, rows)]
    for label, report in zip(labels(reports), reports, strict=True):
        lines += [f"{label}: {count} × {failure}" for failure, count in report.failures.items()]
        if report.all.tokens_per_second:
            lines.append(f"{label}: {report.all.tokens_per_second:.1f} tokens per second")
    return "\n".join(lines)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; give a whole number, 1 or more")
    return int(text)
