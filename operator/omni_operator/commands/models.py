"""The command `omni models`: prints the models of a running pipeline, or what is known about a model beforehand."""

import argparse
import json
from collections import Counter

from omni_operator.client.model_cards import ReplicaModel, fetch_model_names, fetch_replica_models
from omni_operator.commands import flags
from omni_operator.commands.model_survey import ModelInfo, model_info
from omni_operator.commands.terminal.table import format_table

HELP = """Show the models of a running pipeline, their inputs and defaults; or check whether a MODEL is supported.

MODEL is a class of diffusers, a folder with a slash in its name, or org/name on the hub. Only its index and the
headers of its weights are read.

  omni models
  omni models digits                    (with the extra_args that requests can set)
  omni models FluxPipeline
  omni models hf://Qwen/Qwen-Image --output json"""

HEADER = ("STAGE", "MODEL", "MODE", "REPLICAS", "STEPS", "GUIDANCE", "SIZE", "TAKES")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "name", nargs="?", metavar="PIPELINE|MODEL", help="a pipeline, or a model (default: the only pipeline)"
    )
    flags.add_selection_flags(parser)
    flags.add_output_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Print one model's information, or the models that run."""
    if args.name and is_model(args.name):
        print_model_info(model_info(args.name), args.output)
    else:
        print_running_models(args)
    return 0


def is_model(name: str) -> bool:
    """Whether an argument means a model: pipelines have names in lower case, without slashes."""
    return not name.startswith(flags.ADDRESS_PREFIXES) and ("/" in name or "\\" in name or name != name.lower())


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
    if args.name:
        for model in replica_counts:
            print_arguments(model)


def print_arguments(model: ReplicaModel) -> None:
    """Print what requests can give in `extra_args`, one argument a line."""
    arguments = model.card.arguments
    if arguments:
        print(f"\nextra_args of {model.stage} ({model.pipeline}):")
        print(format_table(("NAME", "VALUE"), [(argument.name, argument.description) for argument in arguments]))


def table_row(model: ReplicaModel, replica_count: int) -> tuple[object, ...]:
    """The cells of HEADER for the replicas that run the same model in the same mode."""
    card, defaults = model.card, model.card.defaults
    steps = defaults.num_inference_steps or card.steps
    size = f"{defaults.width}x{defaults.height}" if defaults.width and defaults.height else None
    accepted = ", ".join(card.accepts()) or None
    return model.stage, model.pipeline, model.mode, replica_count, steps, defaults.guidance_scale, size, accepted
