"""The command `omni top`: a running pipeline, live: stages, replicas, queues, rates, and the requests under way."""

import argparse
import json
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from omni_operator.client.errors import GenerationFailed
from omni_operator.client.live_view import UP, View, look
from omni_operator.commands import flags
from omni_operator.commands.rates import rate

HELP = """Watch a running pipeline: its stages, replicas, queues, step times, rates, and the requests under way.

Rates are of the last ten seconds. q or Ctrl-C ends it; --once prints one frame, for scripts.

  omni top
  omni top --once --output json"""

WINDOW_SECONDS = 10.0
BAR_WIDTH = 24
SHOWN = 16


def configure(parser: argparse.ArgumentParser) -> None:
    flags.add_pipeline(parser)
    flags.add_output(parser)
    parser.add_argument("--once", action="store_true", help="print one frame, with the rates of one interval, and end")
    parser.add_argument(
        "--interval", type=interval, default=1.0, metavar="SECONDS", help="time between two looks (default: 1)"
    )


def interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval; give seconds, from 0.1 to 60")
    return value


def run(args: argparse.Namespace) -> int:
    where = flags.find(args)
    console = Console(highlight=False)
    with where.client() as client:
        views = deque([look(client, where)])
        if args.once or args.output == "json" or not console.is_terminal:
            time.sleep(args.interval)
            views.append(look(client, where))
            print_once(console, views, args.output)
            return 0
        with keys() as pressed, Live(frame(views, True), console=console, screen=True, auto_refresh=False) as live:
            while not pressed(args.interval):
                try:
                    views.append(look(client, where))
                except GenerationFailed as failure:
                    live.update(Group(frame(views, True), Text(str(failure), "bold red")), refresh=True)
                    continue
                while views[-1].at - views[0].at > WINDOW_SECONDS and len(views) > 2:
                    views.popleft()
                live.update(frame(views, True), refresh=True)
    return 0


def print_once(console: Console, views: Sequence[View], output: str) -> None:
    """One frame on standard output, as wide as it needs to be where that is no terminal."""
    if output == "json":
        found = {stage.name: rate(stage.name, views) for stage in views[-1].stages}
        rates = {name: {"value": round(one.value, 3), "unit": one.unit} for name, one in found.items() if one}
        print(json.dumps({**views[-1].model_dump(exclude={"at"}), "rates": rates}, indent=2))
        return
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(frame(views, False))


def frame(views: Sequence[View], is_live: bool) -> RenderableType:
    """All that is shown, from the last views."""
    view = views[-1]
    verdict = Text("ready", "green") if view.is_ready else Text(f"not ready: {view.reason}", "bold red")
    title = Text.assemble((view.model, "bold"), "  ", verdict, f"  {len(view.requests)} under way")
    parts: list[RenderableType] = [title, Text(), stages(views), Text(), replicas(view)]
    if view.requests:
        parts += [Text(), requests(view)]
    if is_live:
        parts += [Text(), Text("q ends", "dim")]
    return Group(*parts)


def stages(views: Sequence[View]) -> Table:
    """A line a stage."""
    table = _table("stage", "model", "up", ">requests", ">queued", ">running", ">rate")
    for stage in views[-1].stages:
        table.add_row(
            stage.name,
            stage.pipeline or "-",
            f"{stage.up} of {len(stage.replicas)}",
            str(stage.requests),
            str(sum(replica.queue_length for replica in stage.replicas)),
            str(sum(replica.running for replica in stage.replicas)),
            str(rate(stage.name, views) or "-"),
        )
    return table


def replicas(view: View) -> Table:
    """A line a replica, with how full it is."""
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


def requests(view: View) -> Table:
    """A line a request, with how far it is; those that came first, where there are many."""
    table = _table("request", "stage", "replica", "state", "progress", ">step")
    for one in view.requests[:SHOWN]:
        known = one.total_steps or None
        table.add_row(
            one.id[:24],
            one.stage,
            one.replica or "-",
            one.state,
            ProgressBar(known or 1, one.step if known else 0, width=BAR_WIDTH),
            f"{one.step}/{known}" if known else str(one.step),
        )
    if len(view.requests) > SHOWN:
        table.add_row(f"and {len(view.requests) - SHOWN} more")
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    return table


class _Pressed:
    """Waits for a key on standard input, where that is a terminal; and only waits, where not."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def __call__(self, seconds: float) -> bool:
        """Whether q was pressed within so many seconds; other keys end the wait early."""
        if not self._is_terminal:
            time.sleep(seconds)
            return False
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        if not readable:
            return False
        typed = os.read(sys.stdin.fileno(), 64)
        return not typed or b"q" in typed.lower()


@contextmanager
def keys() -> Iterator[_Pressed]:
    """Reads single keys while it lasts, and leaves the terminal as it was."""
    if not sys.stdin.isatty():
        yield _Pressed(False)
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Pressed(True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
