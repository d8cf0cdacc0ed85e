"""The command `omni top`: shows a running pipeline live: stages, replicas, queues, rates, and running requests."""

import argparse
import json
import time
from collections import deque
from collections.abc import Sequence

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import RequestFailed
from omni_operator.client.live_view import UP, PipelineView, fetch_view
from omni_operator.client.plain_text import plain_text
from omni_operator.commands import flags
from omni_operator.commands.rates import stage_rate
from omni_operator.commands.terminal.keys import single_keys

HELP = """Watch a running pipeline: its stages, replicas, queues, step times, rates, and running requests.

Rates cover the last ten seconds. Press q or Ctrl-C to quit; --once prints one frame, for scripts.

  omni top
  omni top digits -n team-a
  omni top --once --output json"""

RATE_WINDOW_SECONDS = 10.0
BAR_WIDTH = 24
MAX_REQUEST_ROWS = 16
REQUEST_ID_WIDTH = 24
PLAIN_WIDTH = 120


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flags.add_pipeline_flags(parser)
    flags.add_output_flag(parser)
    parser.add_argument("--once", action="store_true", help="print one frame, with the rates of one interval, and exit")
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="time between updates (default: 1)"
    )


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval; give seconds, from 0.1 to 60")
    return value


def run(args: argparse.Namespace) -> int:
    """Print one frame, or follow the pipeline on the terminal until q."""
    endpoint = flags.find_endpoint(args)
    console = Console(highlight=False)
    with endpoint.client() as client:
        views = deque([fetch_view(client, endpoint)])
        if args.once or args.output == "json" or not console.is_terminal:
            time.sleep(args.interval)
            views.append(fetch_view(client, endpoint))
            print_once(console, views, args.output)
        else:
            follow(console, client, endpoint, views, args.interval)
    return 0


def print_once(console: Console, views: Sequence[PipelineView], output: str) -> None:
    """Print one frame. If the output is no terminal, it has a fixed width."""
    if output == "json":
        by_stage = {stage.name: stage_rate(stage.name, views) for stage in views[-1].stages}
        rates = {name: {"value": round(rate.value, 3), "unit": rate.unit} for name, rate in by_stage.items() if rate}
        print(json.dumps({**views[-1].model_dump(exclude={"at"}), "rates": rates}, indent=2))
        return
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(frame(views, is_live=False))


def follow(
    console: Console, client: httpx.Client, endpoint: Endpoint, views: deque[PipelineView], interval: float
) -> None:
    """Refresh the screen every `interval` seconds until q. A failed request is shown below the last view."""
    with single_keys() as keys, Live(frame(views, True), console=console, screen=True, auto_refresh=False) as live:
        while not keys.wait_for_quit(interval):
            try:
                views.append(fetch_view(client, endpoint))
            except RequestFailed as failure:
                live.update(Group(frame(views, True), Text(str(failure), "bold red")), refresh=True)
                continue
            while views[-1].at - views[0].at > RATE_WINDOW_SECONDS and len(views) > 2:
                views.popleft()
            live.update(frame(views, True), refresh=True)


def frame(views: Sequence[PipelineView], is_live: bool) -> RenderableType:
    """The whole screen: the last view, with rates from all views."""
    view = views[-1]
    readiness = Text("ready", "green") if view.is_ready else Text(f"not ready: {view.reason}", "bold red")
    title = Text.assemble((view.model, "bold"), "  ", readiness, f"  {len(view.requests)} under way")
    parts: list[RenderableType] = [title, Text(), stage_table(views), Text(), replica_table(view)]
    if any(stage.loras for stage in view.stages):
        parts += [Text(), lora_table(view)]
    if any(stage.endpoint for stage in view.stages):
        parts += [Text(), endpoint_table(view)]
    if view.requests:
        parts += [Text(), request_table(view)]
    if is_live:
        parts += [Text(), Text("q ends", "dim")]
    return Group(*parts)


def stage_table(views: Sequence[PipelineView]) -> Table:
    """One line for each stage."""
    table = _table("stage", "model", "up", ">requests", ">queued", ">running", ">rate")
    for stage in views[-1].stages:
        table.add_row(
            stage.name,
            stage.pipeline or "-",
            f"{stage.up_count} of {len(stage.replicas)}",
            str(stage.requests),
            str(sum(replica.queue_length for replica in stage.replicas)),
            str(sum(replica.running for replica in stage.replicas)),
            str(stage_rate(stage.name, views) or "-"),
        )
    return table


def replica_table(view: PipelineView) -> Table:
    """One line for each replica, with a bar for its load."""
    table = _table("replica", "state", "host", "load", ">queued", ">running", ">completed", ">step")
    for stage in view.stages:
        for replica in stage.replicas:
            table.add_row(
                replica.id,
                Text(replica.state, "green" if replica.state == UP else "yellow"),
                replica.host,
                ProgressBar(max(1, replica.capacity), replica.running, width=BAR_WIDTH),
                str(replica.queue_length),
                f"{replica.running}/{replica.capacity}",
                str(replica.completed),
                f"{replica.step_ms:.1f} ms",
            )
    return table


def lora_table(view: PipelineView) -> Table:
    """One line for each LoRA adapter of a stage."""
    table = _table("lora", "stage", "replicas", "problem")
    for stage in view.stages:
        for lora in stage.loras:
            table.add_row(lora.name, stage.name, stage.replicas_with(lora.name) or "-", plain_text(lora.reason or "-"))
    return table


def endpoint_table(view: PipelineView) -> Table:
    """One line for each server outside the pipeline that is a stage."""
    table = _table("server", "stage", "model", "problem")
    for stage in view.stages:
        if server := stage.endpoint:
            shown = (plain_text(text) for text in (server.url, stage.name, server.model, server.problem or "-"))
            table.add_row(*shown)
    return table


def request_table(view: PipelineView) -> Table:
    """One line for each running request, with a bar for its progress. If there are many, only the oldest."""
    table = _table("request", "stage", "replica", "state", "progress", ">step")
    for request in view.requests[:MAX_REQUEST_ROWS]:
        total = request.total_steps or None
        table.add_row(
            request.id[:REQUEST_ID_WIDTH],
            request.stage,
            request.replica or "-",
            request.state,
            ProgressBar(total or 1, request.step if total else 0, width=BAR_WIDTH),
            f"{request.step}/{total}" if total else str(request.step),
        )
    if len(view.requests) > MAX_REQUEST_ROWS:
        table.add_row(f"and {len(view.requests) - MAX_REQUEST_ROWS} more")
    return table


def _table(*columns: str) -> Table:
    """An empty table. A column whose name starts with `>` is aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table
