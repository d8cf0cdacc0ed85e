"""The command `omni status`: a pipeline's stages and replicas, their states and loads, once."""

import argparse
import json

from omni_operator.client.live_view import View, look
from omni_operator.commands import flags
from omni_operator.commands.table import columns

HELP = """Show a running pipeline's stages and replicas, their states and loads.

Finds the pipeline as `omni generate` does, and does not wait for it. The exit code is 1 where it is not ready.

  omni status
  omni status --url http://127.0.0.1:8000 --output json"""

HEADER = ("STAGE", "MODEL", "REPLICA", "STATE", "HOST", "RUNNING", "QUEUED", "CAPACITY", "COMPLETED", "STEP")


def configure(parser: argparse.ArgumentParser) -> None:
    flags.add_pipeline(parser)
    flags.add_output(parser)


def run(args: argparse.Namespace) -> int:
    where = flags.find(args)
    with where.client() as client:
        view = look(client, where)
    print(json.dumps(view.model_dump(exclude={"at"}), indent=2) if args.output == "json" else text(view))
    return 0 if view.is_ready else 1


def text(view: View) -> str:
    """The view, for people: one line of a table a replica."""
    verdict = "ready" if view.is_ready else f"not ready: {view.reason}"
    count = len(view.requests)
    lines = [f"{view.model}: {verdict}; {count} request{'' if count == 1 else 's'} under way"]
    rows: list[tuple[object, ...]] = []
    for stage in view.stages:
        if not stage.replicas:
            rows.append((stage.name, stage.pipeline, None, "no replica", *[None] * (len(HEADER) - 4)))
        rows.extend(
            (
                stage.name, stage.pipeline, each.id, each.state, each.host, each.running, each.queue_length,
                each.capacity, each.completed, f"{each.step_ms:.1f} ms",
            )
            for each in stage.replicas
        )  # fmt: skip
    return "\n".join([*lines, columns(HEADER, rows)])
