"""The command `omni generate`: draws a picture with a running pipeline, and shows how far it is; or has it write, or
make a video."""

import argparse
import base64
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from omni_operator.client import endpoint
from omni_operator.client.chat import written
from omni_operator.client.images import drawn
from omni_operator.client.uploads import Upload, upload
from omni_operator.client.videos import filmed
from omni_operator.commands import flags

HELP = """Draw a picture with a running pipeline, or make a video; without -o, print the text that it writes.

Finds the pipeline by itself: the one that `omni up` runs on this machine, or else the one in the namespace of the
current kubeconfig, through the API server; it waits until that one serves. --url or OMNI_URL name an address instead.

  omni generate "a red three on black background" -o three.png
  omni generate "a green seven" -o seven.png --count 4 --seed 7 --steps 8
  omni generate "the same boat at night" --image boat.png -o night.png   (of a pipeline that starts from pictures)
  omni generate "a paper boat on a stream" -o boat.mp4          (of a pipeline that makes videos)
  omni generate "two plus five, in blue"                        (of a pipeline that has a language model)"""

DRAWN = ("size", "steps", "guidance", "negative_prompt")
OPTIONS = {
    "text": ("max_tokens",),
    "pictures": (*DRAWN, "count", "image", "mask", "strength"),
    "videos": (*DRAWN, "seconds", "image"),
}
VIDEO = ".mp4"
PICTURES = {"": "png", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


class BadOption(Exception):
    """An option cannot be used."""

    exit_code = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw, or to answer")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".png, .jpg or .webp file to write, -0, -1, … with --count; or .mp4, for a video",
    )
    flags.add_pipeline(parser)
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
    require_options_that_fit(args)
    count = 1 if args.count is None else args.count
    files = output_files(Path(args.output), count) if args.output is not None else []
    uploads = uploads_of(args)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    where = endpoint.find(flags.wanted(args, args.url), args.timeout, console.print)
    if not files and args.json:
        print(json.dumps({"text": "".join(written(where, question(args)))}))
        return 0
    if not files:
        for piece in written(where, question(args)):
            print(piece, end="", flush=True)
        print()
        return 0
    begin = time.monotonic()
    if kind_of(args) == "videos":
        made = [filmed(where, body(args) | given(seconds=args.seconds), uploads, console)]
    else:
        form = {"output_format": PICTURES[Path(args.output).suffix.lower()], "response_format": "b64_json"}
        request = body(args) | given(strength=args.strength) | {"n": count, **form}
        pictures = drawn(where, request, uploads, console)
        made = [(base64.b64decode(picture["b64_json"]), picture.get("seed", args.seed)) for picture in pictures]
    seconds = time.monotonic() - begin
    for file, (content, _) in zip(files, made, strict=True):
        file.write_bytes(content)
    seeds = [seed for _, seed in made]
    if args.json:
        told = [{"file": str(file), "seed": seed} for file, seed in zip(files, seeds, strict=True)]
        print(json.dumps({"seconds": round(seconds, 3), kind_of(args): told}))
        return 0
    for file, seed in zip(files, seeds, strict=True):
        print(f"{file}  seed {seed}  {seconds:.1f} s" if seed is not None else f"{file}  {seconds:.1f} s")
    return 0


def kind_of(args: argparse.Namespace) -> str:
    """What is asked for, by the name of the file."""
    if args.output is None:
        return "text"
    return "videos" if Path(args.output).suffix.lower() == VIDEO else "pictures"


def require_options_that_fit(args: argparse.Namespace) -> None:
    """Raise BadOption for an option of another kind of answer than is asked for, or one that lacks its picture."""
    kind = kind_of(args)
    for name in sorted({name for names in OPTIONS.values() for name in names} - set(OPTIONS[kind])):
        if getattr(args, name) is not None:
            remedy = "give -o FILE for a picture" if args.output is None else "leave it out"
            remedy += ", or -o for text" if name in OPTIONS["text"] else ""
            raise BadOption(f"--{name.replace('_', '-')} is not an option of {kind}; {remedy}")
    for name in ("mask", "strength"):
        if getattr(args, name) is not None and not args.image:
            raise BadOption(f"--{name} is about a picture to start from; give --image FILE too")
    if kind == "videos" and len(args.image or ()) > 1:
        raise BadOption(f"--image: a video starts from one picture, not {len(args.image)}; give it once")


def uploads_of(args: argparse.Namespace) -> list[Upload]:
    """The files that go with the request. Raises BadPicture."""
    field = "input_reference" if kind_of(args) == "videos" else "image"
    masks = [] if args.mask is None else [upload("mask", "--mask", args.mask)]
    return [upload(field, "--image", file) for file in args.image or ()] + masks


def output_files(output: Path, count: int) -> list[Path]:
    """One file a picture. Raises BadOption where they could not be written in the end."""
    if count < 1:
        raise BadOption(f"--count {count}: expected 1 or more")
    if output.is_dir():
        raise BadOption(f"-o {output}: is a folder; give the name of a file")
    if output.suffix.lower() not in (VIDEO, *PICTURES):
        raise BadOption(f"-o {output}: expected a name that ends in .png, .jpg, .webp, or in {VIDEO} for a video")
    if not output.absolute().parent.is_dir():
        raise BadOption(f"-o {output}: there is no folder {output.parent}; make it first")
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(count)]


def given(**wanted: Any) -> dict[str, Any]:
    """Fields of a request, without those that were not given: they are the server's to choose."""
    return {key: value for key, value in wanted.items() if value is not None}


def question(args: argparse.Namespace) -> dict[str, Any]:
    """The request for text, as OpenAI's client would send it."""
    messages = [{"role": "user", "content": args.prompt}]
    return given(messages=messages, seed=args.seed, max_completion_tokens=args.max_tokens)


def body(args: argparse.Namespace) -> dict[str, Any]:
    """What requests for pictures and for videos have in common."""
    return given(
        prompt=args.prompt,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
        negative_prompt=args.negative_prompt,
    )
