"""The command `omni models`: prints the models of a running pipeline, or what is known about a model beforehand."""

import argparse
import json
from collections import Counter

from omni_operator.client.model_cards import ReplicaModel, fetch_model_names, fetch_replica_models
from omni_operator.commands import flags
from omni_operator.commands.model_survey import ModelInfo, model_info
from omni_operator.commands.terminal.table import format_table

HELP = """Show what models a running pipeline serves, what they take, and their defaults; or whether a MODEL steps.

MODEL is a class of diffusers, a folder, or hf://org/name, of which only the index is read.

  omni models
  omni models FluxPipeline
  omni models hf://Qwen/Qwen-Image --output json"""

HEADER = ("STAGE", "MODEL", "MODE", "REPLICAS", "STEPS", "GUIDANCE", "SIZE", "TAKES")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model to tell about (default: those that run)")
    flags.add_pipeline_flags(parser)
    flags.add_output_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Print one model's information, or the models that run."""
    if args.model:
        print_model_info(model_info(args.model), args.output)
    else:
        print_running_models(args)
    return 0


def print_model_info(info: ModelInfo, output: str) -> None:
    if output == "json":
        print(json.dumps(info.model_dump(), indent=2))
        return
    print("\n".join(f"{name:<9} {value}" for name, value in info.properties()))


def print_running_models(args: argparse.Namespace) -> None:
    endpoint = flags.find_endpoint(args)
    with endpoint.client() as client:
        names = fetch_model_names(client, endpoint)
        replica_counts = Counter(fetch_replica_models(client, endpoint))
    if args.output == "json":
        stages = [
            {**model.model_dump(), "takes": model.card.accepts(), "replicas": count}
            for model, count in replica_counts.items()
        ]
        print(json.dumps({"models": names, "stages": stages}, indent=2))
        return
    print(f"served as {', '.join(names)}" + ("" if replica_counts else "; no replica is up yet"))
    if replica_counts:
        print(format_table(HEADER, [table_row(model, count) for model, count in replica_counts.items()]))


def table_row(model: ReplicaModel, replica_count: int) -> tuple[object, ...]:
    """The cells of HEADER for the replicas that run the same model in the same mode."""
    card, defaults = model.card, model.card.defaults
    steps = defaults.num_inference_steps or card.steps
    size = f"{defaults.width}x{defaults.height}" if defaults.width and defaults.height else None
    accepted = ", ".join(card.accepts()) or None
    return model.stage, model.pipeline, model.mode, replica_count, steps, defaults.guidance_scale, size, accepted
