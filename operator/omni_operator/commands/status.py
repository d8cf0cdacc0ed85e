"""The command `omni status`: prints a pipeline's stages and replicas, with their states and loads."""

import argparse
import json

from omni_operator.client.live_view import PipelineView, fetch_view
from omni_operator.client.plain_text import plain_text
from omni_operator.commands import flags
from omni_operator.commands.terminal.table import format_table

HELP = """Show a running pipeline's stages and replicas, their states and loads.

Finds the pipeline as `omni generate` does, and does not wait for it. The exit code is 1 if the pipeline is not ready or
one of its replicas is down.

  omni status
  omni status digits -n team-a
  omni status --url http://127.0.0.1:8000 --output json"""

HEADER = ("STAGE", "MODEL", "REPLICA", "STATE", "HOST", "RUNNING", "QUEUED", "CAPACITY", "COMPLETED", "STEP")

DOWN = ("ERROR", "DOWN")
"""The states of a replica that has stopped or fallen silent."""
LORA_HEADER = ("STAGE", "LORA", "REPLICAS", "PROBLEM")
ENDPOINT_HEADER = ("STAGE", "SERVER", "MODEL", "PROBLEM")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flags.add_pipeline_flags(parser)
    flags.add_output_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Print the view; 0 if the pipeline is ready and no replica is down."""
    endpoint = flags.find_endpoint(args)
    with endpoint.client() as client:
        view = fetch_view(client, endpoint)
    print(json.dumps(view.model_dump(exclude={"at"}), indent=2) if args.output == "json" else as_table(view))
    is_a_replica_down = any(replica.state in DOWN for stage in view.stages for replica in stage.replicas)
    return 1 if is_a_replica_down or not view.is_ready else 0


def as_table(view: PipelineView) -> str:
    """A summary, a table with a line for each replica, and one each for LoRA adapters and servers that are stages, if
    there are any.
    """
    readiness = "ready" if view.is_ready else f"not ready: {view.reason}"
    count = len(view.requests)
    summary = f"{view.model}: {readiness}; {count} request{'' if count == 1 else 's'} under way"
    rows: list[tuple[object, ...]] = []
    for stage in view.stages:
        if not stage.replicas:
            rows.append((stage.name, stage.pipeline, None, "no replica", *[None] * (len(HEADER) - 4)))
        rows.extend(
            (
                stage.name, stage.pipeline, replica.id, replica.state, replica.host, replica.running,
                replica.queue_length, replica.capacity, replica.completed, f"{replica.step_ms:.1f} ms",
            )
            for replica in stage.replicas
        )  # fmt: skip
    table = f"{summary}\n{format_table(HEADER, rows)}"
    loras = [
        (stage.name, lora.name, stage.replicas_with(lora.name), lora.reason)
        for stage in view.stages
        for lora in stage.loras
    ]
    servers = [
        (stage.name, plain_text(server.url), plain_text(server.model), plain_text(server.problem or "") or None)
        for stage in view.stages
        if (server := stage.endpoint)
    ]
    more = [format_table(header, rows) for header, rows in ((LORA_HEADER, loras), (ENDPOINT_HEADER, servers)) if rows]
    return "\n\n".join([table, *more])
