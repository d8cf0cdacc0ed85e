"""The command `omni generate`: generates images, a video, sound or text with a running pipeline."""

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
from omni_operator.client.sounds import generate_sound
from omni_operator.client.uploads import Upload, read_upload
from omni_operator.client.videos import generate_video
from omni_operator.commands import flags
from omni_operator.commands.flags import BadOption
from omni_operator.commands.output_files import (
    IMAGE_FORMATS,
    SOUND_FORMATS,
    VIDEO_SUFFIX,
    image_count,
    is_standard_output,
    output_files,
    suffix_of,
)
from omni_settings.cache import parse as parse_cache

HELP = """Generate images, a video or audio with a running pipeline; without -o, generate and print text.

Finds the pipeline automatically: the one that `omni up` runs on this machine, or else the one in the namespace of the
current kubeconfig, through the API server, and waits until it serves. PIPELINE selects one by its name or address.

  omni generate "a red three on black background" -o three.png
  omni generate digits "a red three on black background" -o three.png       (with the pipeline digits)
  omni generate "a red three" -o - | display                    (to standard output)
  omni generate "a green seven" -o seven.png --count 4 --seed 7 --steps 8
  omni generate "the same boat at night" --image boat.png -o night.png   (a pipeline with image input)
  omni generate "a paper boat on a stream" -o boat.mp4          (a pipeline that generates videos)
  omni generate "rain on a tin roof" --seconds 8 -o rain.wav    (a pipeline that generates audio)
  omni generate "two plus five, in blue"                        (a pipeline with a language model)"""

TEXT, IMAGES, VIDEOS, SOUNDS = "text", "pictures", "videos", "sounds"
DIFFUSION_OPTIONS = ("steps", "guidance", "negative_prompt", "lora", "cache", "extra_arg")
OPTIONS = {
    TEXT: ("max_tokens",),
    IMAGES: (*DIFFUSION_OPTIONS, "size", "count", "image", "mask", "strength"),
    VIDEOS: (*DIFFUSION_OPTIONS, "size", "seconds", "image"),
    SOUNDS: (*DIFFUSION_OPTIONS, "seconds"),
}
FILE_MARK = "@"
"""Before the name of a file, in a value of --extra-arg."""


@dataclass(frozen=True)
class Output:
    """A generated file; `seed` is None if neither the user nor the server names it."""

    content: bytes
    seed: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    flags.add_pipeline_flags(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="what to generate, or the question to answer")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".png, .jpg or .webp file to write, -0, -1, … with --count; or .mp4, for a video; or .wav, .mp3, "
        ".flac, .opus, .ogg or .aac, for sound; or - for standard output",
    )
    parser.add_argument("--format", metavar="SUFFIX", help="with -o -: png, jpg, webp, mp4, wav, … (default: png)")
    parser.add_argument("--size", metavar="WxH", help="width x height in pixels, like 32x32 (default: the model's own)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's own)")
    parser.add_argument(
        "--guidance", type=float, metavar="SCALE", help="how closely to follow the prompt (default: the model's own)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same result (default: random)")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="things to avoid")
    parser.add_argument(
        "--lora",
        action="append",
        metavar="NAME[=SCALE]",
        help="a LoRA adapter of the pipeline to apply, like ink or ink=0.6; repeatable, they add up",
    )
    parser.add_argument(
        "--cache",
        metavar="MODE",
        help="skip, to be faster by leaving out predictable model calls, also skip,tolerance=0.05,maxConsecutive=4; one"
        " of diffusers' caches, like first-block,threshold=0.1; or none (default: the pipeline's own)",
    )
    parser.add_argument(
        "--extra-arg",
        action="append",
        metavar="NAME=VALUE",
        help="an argument of the pipeline that has no option here, like max_sequence_length=512, or an image, like "
        "control_image=@edges.png; repeatable. `omni models PIPELINE` lists them",
    )
    parser.add_argument("--image", action="append", metavar="FILE", help="input image, .png, .jpg or .webp; repeatable")
    parser.add_argument(
        "--mask", metavar="FILE", help="mask file: as large as the image, and transparent where it should change"
    )
    parser.add_argument(
        "--strength",
        type=float,
        metavar="X",
        help="how much of the input image changes, up to 1 (default: the model's own)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="number of images (default: 1)")
    parser.add_argument("--seconds", metavar="S", help="length of the video or audio (default: the model's own)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="maximum tokens (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print the files, or the text, as JSON")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="time to wait until it is ready (default: 600)"
    )


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked here, send the request, and write or print the result."""
    kind = output_kind(args)
    require_fitting_options(args, kind)
    files = output_files(args)
    uploads = read_uploads(args, kind)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    endpoint = find_endpoint(flags.selector(args, args.name), args.timeout, console.print)
    if kind == TEXT:
        print_text(stream_text(endpoint, chat_request(args)), args.json)
        return 0
    start = time.monotonic()
    if kind == VIDEOS:
        outputs = generate_one_video(args, endpoint, uploads, console)
    elif kind == SOUNDS:
        outputs = [Output(*generate_sound(endpoint, sound_request(args), console))]
    else:
        outputs = generate_all_images(args, endpoint, uploads, console)
    seconds = time.monotonic() - start
    if is_standard_output(args):
        sys.stdout.buffer.write(outputs[0].content)
        sys.stdout.buffer.flush()
        return 0
    for file, output in zip(files, outputs, strict=True):
        file.write_bytes(output.content)
    seeds = {file: output.seed for file, output in zip(files, outputs, strict=True)}
    print_files(seeds, kind, seconds, args.json)
    return 0


# ---- options


def output_kind(args: argparse.Namespace) -> str:
    """What the name of the output file asks for: TEXT, IMAGES, VIDEOS or SOUNDS."""
    if args.output is None:
        return TEXT
    suffix = suffix_of(args)
    return VIDEOS if suffix == VIDEO_SUFFIX else SOUNDS if suffix in SOUND_FORMATS else IMAGES


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
    if kind == SOUNDS:
        sound_seconds(args)
    if kind == VIDEOS and len(args.image or ()) > 1:
        raise BadOption(f"--image: a video starts from one picture, not {len(args.image)}; give it once")


def sound_seconds(args: argparse.Namespace) -> float | None:
    """The length of a sound. Raises BadOption if it is no number."""
    try:
        return None if args.seconds is None else float(args.seconds)
    except ValueError:
        raise BadOption(f"--seconds {args.seconds}: expected a number, like 8 or 2.5") from None


def read_uploads(args: argparse.Namespace, kind: str) -> list[Upload]:
    """The image files that are sent with the request. Raises UnusableImage."""
    field = "input_reference" if kind == VIDEOS else "image"
    masks = [] if args.mask is None else [read_upload("mask", "--mask", args.mask)]
    uploads = [read_upload(field, "--image", file) for file in args.image or ()] + masks
    if uploads:  # the fields of a form are shorter than some images
        for name, value in map(name_and_value, args.extra_arg or ()):
            if value.startswith(FILE_MARK):
                uploads.append(read_upload(f"extra_args[{name}]", "--extra-arg", value.removeprefix(FILE_MARK)))
    return uploads


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
    image_format = IMAGE_FORMATS[suffix_of(args)]
    request = {
        **diffusion_request(args),
        **without_none(strength=args.strength),
        "n": image_count(args),
        "output_format": image_format,
        "response_format": "b64_json",
    }
    images = generate_images(endpoint, request, uploads, console)
    return [Output(base64.b64decode(image["b64_json"]), image.get("seed", args.seed)) for image in images]


def sound_request(args: argparse.Namespace) -> dict[str, Any]:
    """The request for a sound, as OpenAI's client would send it."""
    request = diffusion_request(args) | without_none(seconds=sound_seconds(args))
    return {
        "input": request.pop("prompt"),
        "response_format": SOUND_FORMATS[suffix_of(args)],
        **request,
    }


def diffusion_request(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that requests for images, videos and sound have in common."""
    return without_none(
        prompt=args.prompt,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
        negative_prompt=args.negative_prompt,
        loras=[lora_choice(text) for text in args.lora] if args.lora else None,
        cache=cache_choice(args.cache) if args.cache else None,
        extra_args=extra_args(args.extra_arg, has_form=bool(args.image)) if args.extra_arg else None,
    )


def extra_args(texts: Iterable[str], has_form: bool = False) -> dict[str, Any]:
    """The arguments of `--extra-arg` by name. A value is JSON, or else a text; an image is a `data:` URL.

    has_form: whether a form sends the images as files

    Raises BadOption, or UnusableImage.
    """
    names: set[str] = set()
    values: dict[str, Any] = {}
    for name, value in map(name_and_value, texts):
        if name in names:
            raise BadOption(f"--extra-arg {name}: is given twice; for several values, give a list, like [1, 2]")
        names.add(name)
        if not value.startswith(FILE_MARK):
            values[name] = json_or_text(value)
        elif not has_form:
            values[name] = image_url(value.removeprefix(FILE_MARK))
    return values


def name_and_value(text: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE. Raises BadOption."""
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise BadOption(f"--extra-arg {text}: give NAME=VALUE, like max_sequence_length=512")
    return name, value


def image_url(file: str) -> str:
    """An image file as a `data:` URL. Raises UnusableImage."""
    _, (_, content, media_type) = read_upload("extra_args", "--extra-arg", file)
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def lora_choice(text: str) -> dict[str, Any]:
    """An adapter as requests select it. Raises BadOption if its scale is no number."""
    name, separator, scale = text.partition("=")
    try:
        return {"name": name, "scale": float(scale)} if separator else {"name": name}
    except ValueError:
        raise BadOption(f"--lora {text}: {scale!r} is no scale; give NAME or NAME=NUMBER, like ink=0.6") from None


def cache_choice(text: str) -> dict[str, Any]:
    """A cache's settings as requests give them. Raises BadOption."""
    try:
        return parse_cache(text).model_dump(exclude_none=True)
    except ValueError as error:
        raise BadOption(f"--cache {error}") from None


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
