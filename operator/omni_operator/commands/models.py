"""The command `omni models`: what a running pipeline runs; or what is known of a model before it is served."""

import argparse
import json

from omni_operator.client.live_view import Reported, fetch
from omni_operator.commands import flags
from omni_operator.commands.model_survey import Known, known
from omni_operator.commands.table import columns

HELP = """Show what models a running pipeline serves, what they take, and their defaults; or whether a MODEL steps.

MODEL is a class of diffusers, a folder, or hf://org/name, of which only the index is read.

  omni models
  omni models FluxPipeline
  omni models hf://Qwen/Qwen-Image --output json"""

HEADER = ("STAGE", "MODEL", "MODE", "REPLICAS", "STEPS", "GUIDANCE", "SIZE", "TAKES")


class Defaults(Reported):
    """What a model is served with where a request says nothing."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None


class Card(Reported):
    """What a model can do."""

    context_length: int | None = None
    defaults: Defaults = Defaults()
    negative_prompt: bool = False
    guidance: bool = False
    sized: bool = False
    size_multiple: int = 1
    image: str = "none"
    needs_image: bool = False
    mask: bool = False
    strength: bool = False
    steps: int | None = None
    video: bool = False


class Runs(Reported):
    """A replica, by what it runs."""

    stage: str
    pipeline: str
    mode: str
    card: Card = Card()


class Replicas(Reported):
    replicas: list[Runs]


class Model(Reported):
    id: str


class Served(Reported):
    """The names under which the pipeline answers."""

    data: list[Model]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model to tell about (default: those that run)")
    flags.add_pipeline(parser)
    flags.add_output(parser)


def run(args: argparse.Namespace) -> int:
    if args.model:
        found = known(args.model)
        print(json.dumps(found.model_dump(), indent=2) if args.output == "json" else described(found))
        return 0
    where = flags.find(args)
    with where.client() as client:
        names = [model.id for model in fetch(client, where, "/v1/models", Served).data]
        replicas = fetch(client, where, "/omni/replicas", Replicas).replicas
    alike: dict[Runs, int] = {}
    for replica in replicas:
        alike[replica] = alike.get(replica, 0) + 1
    if args.output == "json":
        stages = [{**one.model_dump(), "takes": takes(one.card), "replicas": count} for one, count in alike.items()]
        print(json.dumps({"models": names, "stages": stages}, indent=2))
        return 0
    print(f"served as {', '.join(names)}" + ("" if replicas else "; no replica is up yet"))
    if alike:
        print(columns(HEADER, [row(one, count) for one, count in alike.items()]))
    return 0


def row(one: Runs, count: int) -> tuple[object, ...]:
    """A line of the table."""
    card, own = one.card, one.card.defaults
    steps = own.num_inference_steps or card.steps
    size = f"{own.width}x{own.height}" if own.width and own.height else None
    what = ", ".join(takes(card)) or None
    return one.stage, one.pipeline, one.mode, count, steps, own.guidance_scale, size, what


def takes(card: Card) -> list[str]:
    """What of a request it heeds, beside the prompt."""
    offered = {
        "guidance": card.guidance,
        "negative prompt": card.negative_prompt,
        f"size (multiples of {card.size_multiple})" if card.size_multiple > 1 else "size": card.sized,
        "several images" if card.image == "several" else "an image": card.image != "none",
        "mask": card.mask,
        "strength": card.strength,
        f"{card.context_length} tokens": card.context_length is not None,
    }
    return [name for name, is_taken in offered.items() if is_taken]


def described(found: Known) -> str:
    """What is known of a class, in lines."""
    return "\n".join(f"{name:<9} {value}" for name, value in found.lines())
