"""The command `omni generate`: generates images, a video or text with a running pipeline."""

import argparse
import base64
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from omni_operator.client.chat import stream_text
from omni_operator.client.discovery import find_endpoint
from omni_operator.client.endpoint import Endpoint
from omni_operator.client.images import generate_images
from omni_operator.client.plain_text import plain_text
from omni_operator.client.uploads import Upload, read_upload
from omni_operator.client.videos import generate_video
from omni_operator.commands import flags

HELP = """Draw a picture with a running pipeline, or make a video; without -o, print the text that it writes.

Finds the pipeline by itself: the one that `omni up` runs on this machine, or else the one in the namespace of the
current kubeconfig, through the API server; it waits until that one serves. --url or OMNI_URL name an address instead.

  omni generate "a red three on black background" -o three.png
  omni generate "a green seven" -o seven.png --count 4 --seed 7 --steps 8
  omni generate "the same boat at night" --image boat.png -o night.png   (of a pipeline that starts from pictures)
  omni generate "a paper boat on a stream" -o boat.mp4          (of a pipeline that makes videos)
  omni generate "two plus five, in blue"                        (of a pipeline that has a language model)"""

TEXT, IMAGES, VIDEOS = "text", "pictures", "videos"
IMAGE_AND_VIDEO_OPTIONS = ("size", "steps", "guidance", "negative_prompt")
OPTIONS = {
    TEXT: ("max_tokens",),
    IMAGES: (*IMAGE_AND_VIDEO_OPTIONS, "count", "image", "mask", "strength"),
    VIDEOS: (*IMAGE_AND_VIDEO_OPTIONS, "seconds", "image"),
}
VIDEO_SUFFIX = ".mp4"
IMAGE_FORMATS = {"": "png", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


class BadOption(Exception):
    """An option has an unusable value, or does not fit the other options."""

    exit_code = 2


@dataclass(frozen=True)
class Output:
    """A generated file; `seed` is None if neither the user nor the server names it."""

    content: bytes
    seed: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw, or to answer")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".png, .jpg or .webp file to write, -0, -1, … with --count; or .mp4, for a video",
    )
    flags.add_pipeline_flags(parser)
    parser.add_argument("--size", metavar="WxH", help="width x height in pixels, like 32x32 (default: the model's own)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's own)")
    parser.add_argument(
        "--guidance", type=float, metavar="SCALE", help="how strictly to follow the prompt (default: the model's own)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer (default: random)")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what not to draw")
    parser.add_argument(
        "--image", action="append", metavar="FILE", help="picture to start from, .png, .jpg or .webp; repeatable"
    )
    parser.add_argument(
        "--mask", metavar="FILE", help="as large as the picture, and transparent where that is to be painted anew"
    )
    parser.add_argument(
        "--strength",
        type=float,
        metavar="X",
        help="how much of the picture is to change, up to 1 (default: the model's own)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="how many pictures (default: 1)")
    parser.add_argument("--seconds", metavar="S", help="how long a video is (default: the model's own)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of text at most (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="tell of the files, or the text, as JSON")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="time to wait until it serves (default: 600)"
    )


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked here, send the request, and write or print the result."""
    kind = output_kind(args)
    require_fitting_options(args, kind)
    files = output_files(args)
    uploads = read_uploads(args, kind)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    endpoint = find_endpoint(flags.selector(args, args.url), args.timeout, console.print)
    if kind == TEXT:
        print_text(stream_text(endpoint, chat_request(args)), args.json)
        return 0
    start = time.monotonic()
    if kind == VIDEOS:
        outputs = generate_one_video(args, endpoint, uploads, console)
    else:
        outputs = generate_all_images(args, endpoint, uploads, console)
    seconds = time.monotonic() - start
    for file, output in zip(files, outputs, strict=True):
        file.write_bytes(output.content)
    seeds = {file: output.seed for file, output in zip(files, outputs, strict=True)}
    print_files(seeds, kind, seconds, args.json)
    return 0


# ---- options


def output_kind(args: argparse.Namespace) -> str:
    """What the name of the output file asks for: TEXT, IMAGES or VIDEOS."""
    if args.output is None:
        return TEXT
    return VIDEOS if Path(args.output).suffix.lower() == VIDEO_SUFFIX else IMAGES


def require_fitting_options(args: argparse.Namespace, kind: str) -> None:
    """Raise BadOption for an option of another kind of output, or one that lacks the image it is about."""
    for name in sorted({name for names in OPTIONS.values() for name in names} - set(OPTIONS[kind])):
        if getattr(args, name) is not None:
            remedy = "give -o FILE for a picture" if kind == TEXT else "leave it out"
            remedy += ", or -o for text" if name in OPTIONS[TEXT] else ""
            raise BadOption(f"--{name.replace('_', '-')} is not an option of {kind}; {remedy}")
    for name in ("mask", "strength"):
        if getattr(args, name) is not None and not args.image:
            raise BadOption(f"--{name} is about a picture to start from; give --image FILE too")
    if kind == VIDEOS and len(args.image or ()) > 1:
        raise BadOption(f"--image: a video starts from one picture, not {len(args.image)}; give it once")


def output_files(args: argparse.Namespace) -> list[Path]:
    """The files to write, one for each image. Raises BadOption if they could not be written in the end."""
    if args.output is None:
        return []
    output, count = Path(args.output), image_count(args)
    if count < 1:
        raise BadOption(f"--count {count}: expected 1 or more")
    if output.is_dir():
        raise BadOption(f"-o {output}: is a folder; give the name of a file")
    if output.suffix.lower() not in (VIDEO_SUFFIX, *IMAGE_FORMATS):
        raise BadOption(
            f"-o {output}: expected a name that ends in .png, .jpg, .webp, or in {VIDEO_SUFFIX} for a video"
        )
    if not output.absolute().parent.is_dir():
        raise BadOption(f"-o {output}: there is no folder {output.parent}; make it first")
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(count)]


def image_count(args: argparse.Namespace) -> int:
    return 1 if args.count is None else int(args.count)


def read_uploads(args: argparse.Namespace, kind: str) -> list[Upload]:
    """The image files that are sent with the request. Raises UnusableImage."""
    field = "input_reference" if kind == VIDEOS else "image"
    masks = [] if args.mask is None else [read_upload("mask", "--mask", args.mask)]
    return [read_upload(field, "--image", file) for file in args.image or ()] + masks


# ---- requests


def generate_one_video(
    args: argparse.Namespace, endpoint: Endpoint, uploads: list[Upload], console: Console
) -> list[Output]:
    """Generate a video. Raises RequestFailed."""
    request = diffusion_request(args) | without_none(seconds=args.seconds)
    return [Output(*generate_video(endpoint, request, uploads, console))]


def generate_all_images(
    args: argparse.Namespace, endpoint: Endpoint, uploads: list[Upload], console: Console
) -> list[Output]:
    """Generate `--count` images. Raises RequestFailed."""
    image_format = IMAGE_FORMATS[Path(args.output).suffix.lower()]
    request = {
        **diffusion_request(args),
        **without_none(strength=args.strength),
        "n": image_count(args),
        "output_format": image_format,
        "response_format": "b64_json",
    }
    images = generate_images(endpoint, request, uploads, console)
    return [Output(base64.b64decode(image["b64_json"]), image.get("seed", args.seed)) for image in images]


def diffusion_request(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that requests for images and for videos have in common."""
    return without_none(
        prompt=args.prompt,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
        negative_prompt=args.negative_prompt,
    )


def chat_request(args: argparse.Namespace) -> dict[str, Any]:
    """The request for text, as OpenAI's client would send it."""
    messages = [{"role": "user", "content": args.prompt}]
    return without_none(messages=messages, seed=args.seed, max_completion_tokens=args.max_tokens)


def without_none(**fields: Any) -> dict[str, Any]:
    """The fields that have a value. The server chooses the others."""
    return {name: value for name, value in fields.items() if value is not None}


# ---- results


def print_text(pieces: Iterable[str], as_json: bool) -> None:
    """Print text as it arrives, or all of it as JSON. A terminal gets no control characters."""
    if as_json:
        print(json.dumps({"text": "".join(pieces)}))
        return
    for piece in pieces:
        print(plain_text(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    print()


def print_files(seeds: dict[Path, int | None], kind: str, seconds: float, as_json: bool) -> None:
    """Print each file with its seed, and how long the generation took."""
    if as_json:
        files = [{"file": str(file), "seed": seed} for file, seed in seeds.items()]
        print(json.dumps({"seconds": round(seconds, 3), kind: files}))
        return
    for file, seed in seeds.items():
        print(f"{file}  seed {seed}  {seconds:.1f} s" if seed is not None else f"{file}  {seconds:.1f} s")
