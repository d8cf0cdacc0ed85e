"""The command `omni bench`: reads its flags, runs the rounds, and prints the results."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from omni_operator.client.discovery import find_endpoint
from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import RequestFailed
from omni_operator.client.model_cards import fetch_model_names
from omni_operator.commands import flags
from omni_operator.commands.bench import figures, plot, workload
from omni_operator.commands.bench.figures import Report
from omni_operator.commands.bench.load import Round, Sample, run_round
from omni_operator.commands.bench.workload import BadWorkload, BenchRequest
from omni_operator.commands.terminal.table import format_table

HELP = """Load one or two running pipelines through their API, and measure throughput and latency.

A closed loop keeps --concurrency requests running; --rate sends requests as a Poisson process (open loop); --trace
replays a file. Two pipelines get the same requests in alternating rounds. The exit code is 1 if no request succeeded.

  omni bench --duration 30 --concurrency 8
  omni bench digits letters --requests 200
  omni bench http://127.0.0.1:8000 --rate 5 --requests 200 --mix 4x32x32:3,20x64x64:1 --plot bench.png
  omni bench http://127.0.0.1:8000 http://127.0.0.1:9000 --output json
  omni bench --trace requests.jsonl --speed 2

A line of a trace is the body of a request with its time in seconds:
  {"at": 0.5, "prompt": "a red three", "size": "32x32", "num_inference_steps": 4, "seed": 7}"""

HEADER = ("PIPELINE", "REQUESTS OF", "COUNT", "ERRORS", "PER SECOND", "MEAN", "P50", "P95", "P99")
ROUNDS_OF_TWO_PIPELINES = 4
DEFAULT_REQUESTS = 100
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Plan:
    """How much load each pipeline gets.

    concurrency: requests that run at a time, in a closed loop
    rounds: turns of each pipeline
    round_seconds: after which a round ends; None if only the number of requests ends it
    total: requests for each pipeline in all rounds; None if only the time ends them
    """

    concurrency: int
    rounds: int
    round_seconds: float | None
    total: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "names", nargs="*", metavar="PIPELINE", help="one, or two to compare: names, or addresses of APIs"
    )
    flags.add_selection_flags(parser)
    timing = parser.add_mutually_exclusive_group()
    timing.add_argument(
        "--concurrency", type="count", default=4, metavar="N", help="closed loop: concurrent requests (default: 4)"
    )
    timing.add_argument(
        "--rate", type="positive", metavar="R", help="open loop: requests per second, as a Poisson process"
    )
    timing.add_argument("--trace", type=Path, metavar="FILE", help="replay the requests of a JSONL file at their times")
    parser.add_argument("--speed", type="positive", default=1.0, metavar="X", help="speed of the replay (default: 1)")
    parser.add_argument(
        "--mix", metavar="LIST", help="sizes and steps: STEPSxWxH[:WEIGHT],… (default: the model's own)"
    )
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="prompt to send; repeatable")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the workload (default: 0)")
    parser.add_argument("--requests", type="count", metavar="N", help="total requests for each pipeline (default: 100)")
    parser.add_argument("--duration", type="positive", metavar="SECONDS", help="or total time for each pipeline")
    parser.add_argument(
        "--rounds", type="count", metavar="N", help="rounds for each pipeline (default: 1, or 4 with two pipelines)"
    )
    parser.add_argument("--no-warm-up", action="store_true", help="skip the uncounted warm-up request of each kind")
    flags.add_output_flag(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the latencies, as .png, .svg or .pdf")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; 0 if each pipeline answered at least one request."""
    require_usable_flags(args)
    kinds = workload.parse_mix(args.mix) if args.mix else []
    prompts = args.prompt or list(workload.PROMPTS)
    trace = workload.read_trace(args.trace, args.speed) if args.trace else None
    endpoints = find_endpoints(args)
    if not args.no_warm_up:
        warm_up(endpoints, workload.warm_up_requests(kinds, prompts) if trace is None else trace[:1])
    plan = make_plan(args, len(endpoints), trace)

    def requests_of_round(number: int) -> Iterator[BenchRequest]:
        if trace is not None:
            return islice(trace, args.requests)
        seed = args.seed + number
        requests = workload.random_requests(kinds, prompts, seed)
        if args.rate:
            requests = workload.with_poisson_arrivals(requests, args.rate, seed)
        return islice(requests, requests_in_round(plan, number))

    results = alternate(endpoints, requests_of_round, plan)
    reports = [figures.build_report(endpoint.url, rounds) for endpoint, rounds in zip(endpoints, results, strict=True)]
    if args.plot:
        plot.plot(args.plot, list(zip(labels(reports), results, strict=True)))
    print(as_json(args, reports) if args.output == "json" else as_table(reports))
    return 0 if all(report.all.requests > report.all.errors for report in reports) else 1


def require_usable_flags(args: argparse.Namespace) -> None:
    """Raise BadWorkload for flags that cannot be used together, before anything is sent."""
    if len(args.names) > 2:
        raise BadWorkload(f"{len(args.names)} pipelines: give one, or two to compare")
    if args.trace and args.mix:
        raise BadWorkload("--mix: a trace has its own sizes and steps; leave it out")
    if args.plot:
        plot.require_matplotlib()
        if args.plot.suffix not in PLOT_SUFFIXES:
            raise BadWorkload(f"--plot {args.plot}: give a name that ends in .png, .svg or .pdf")
        if not args.plot.absolute().parent.is_dir():
            raise BadWorkload(f"--plot {args.plot}: there is no folder {args.plot.parent}; make it first")


def find_endpoints(args: argparse.Namespace) -> list[Endpoint]:
    """The APIs of the pipelines. Raises EndpointNotFound, or RequestFailed if one does not respond."""
    endpoints = [find_endpoint(flags.selector(args, name), 0.0, print) for name in (args.names or [None])]
    for endpoint in endpoints:
        with endpoint.client() as client:
            fetch_model_names(client, endpoint)
    return endpoints


def warm_up(endpoints: list[Endpoint], requests: list[BenchRequest]) -> None:
    """Send each request to each pipeline, one after the other. Raises RequestFailed if one fails."""
    requests = [dataclasses.replace(request, due=None) for request in requests]
    for endpoint in endpoints:
        for sample in run_round(endpoint, iter(requests), 1, None, lambda _: None).samples:
            if sample.error:
                raise RequestFailed(f"{endpoint.description} cannot be measured ({sample.kind}): {sample.error}")


def make_plan(args: argparse.Namespace, pipeline_count: int, trace: list[BenchRequest] | None) -> Plan:
    """How much load the flags ask for."""
    rounds = args.rounds or (1 if trace or pipeline_count == 1 else ROUNDS_OF_TWO_PIPELINES)
    round_seconds = args.duration / rounds if args.duration else None
    if trace is not None:
        return Plan(args.concurrency, rounds, round_seconds, len(trace[: args.requests]) * rounds)
    total = None if args.duration and not args.requests else (args.requests or DEFAULT_REQUESTS)
    return Plan(args.concurrency, rounds, round_seconds, total)


def requests_in_round(plan: Plan, number: int) -> int | None:
    """The requests of a round; the total is spread evenly over the rounds."""
    if plan.total is None:
        return None
    return plan.total // plan.rounds + (number < plan.total % plan.rounds)


def alternate(
    endpoints: list[Endpoint], requests_of_round: Callable[[int], Iterator[BenchRequest]], plan: Plan
) -> list[list[Round]]:
    """Run the pipelines' rounds in turns: forward, then backward, so that a drift of the machine affects both alike."""
    results: list[list[Round]] = [[] for _ in endpoints]
    console = Console(stderr=True)
    text = TextColumn("{task.description} {task.completed:.0f} answered, {task.fields[errors]} errors")
    start = time.monotonic()
    with Progress(text, BarColumn(), TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        total = None if plan.total is None else plan.total * len(endpoints)
        task = progress.add_task("bench:", total=total, errors=0)
        errors = 0

        def show(sample: Sample) -> None:
            nonlocal errors
            errors += sample.error is not None
            progress.update(task, advance=1, errors=errors)

        for number in range(plan.rounds):
            order = range(len(endpoints)) if number % 2 == 0 else reversed(range(len(endpoints)))
            for index in order:
                requests = requests_of_round(number)
                results[index].append(run_round(endpoints[index], requests, plan.concurrency, plan.round_seconds, show))
    if not console.is_terminal:
        count = sum(len(each.samples) for rounds in results for each in rounds)
        print(f"{count} requests answered in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return results


def labels(reports: list[Report]) -> list[str]:
    """The address of each pipeline, numbered if both are the same."""
    urls = [report.url for report in reports]
    return urls if len(set(urls)) == len(urls) else [f"{url} ({number})" for number, url in enumerate(urls, 1)]


def as_json(args: argparse.Namespace, reports: list[Report]) -> str:
    """All figures, with the flags that produced them."""
    names = ("rate", "mix", "seed", "requests", "duration", "rounds", "speed")
    flag_values: dict[str, Any] = {name: getattr(args, name) for name in names}
    flag_values["concurrency"] = None if args.rate or args.trace else args.concurrency
    flag_values["trace"] = str(args.trace) if args.trace else None
    content: dict[str, Any] = {"asked": flag_values, "pipelines": [report.model_dump() for report in reports]}
    if len(reports) == 2:
        content["second_to_first"] = figures.ratios(*reports)
    return json.dumps(content, indent=2)


def as_table(reports: list[Report]) -> str:
    """All figures as a table, the ratios of two pipelines, and then the failures and the tokens per second."""
    rows: list[tuple[object, ...]] = [
        (
            label, each.kind, each.requests, each.errors, f"{each.throughput:.2f}",
            *(None if value is None else f"{value:.3f} s" for value in (each.mean, each.p50, each.p95, each.p99)),
        )
        for label, report in zip(labels(reports), reports, strict=True)
        for each in report.figures
    ]  # fmt: skip
    if len(reports) == 2:
        ratios = [None if value is None else f"{value:.2f}×" for value in figures.ratios(*reports).values()]
        rows.append(("second / first", figures.ALL_KINDS, None, None, *ratios))
    lines = [format_table(HEADER, rows)]
    for label, report in zip(labels(reports), reports, strict=True):
        lines += [f"{label}: {count} × {failure}" for failure, count in report.failures.items()]
        if report.all.tokens_per_second:
            lines.append(f"{label}: {report.all.tokens_per_second:.1f} tokens per second")
    return "\n".join(lines)
