"""The command `omni generate`: draws a picture with a running pipeline, and shows how far it is; or has it write."""

import argparse
import base64
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from omni_operator import endpoint
from omni_operator.answers import NotAPipeline, connection, require_success
from omni_operator.endpoint import Endpoint
from omni_operator.writing import written

HELP = """Draw a picture with a running pipeline; without -o, print the text that it writes.

Finds the pipeline by itself: the one that `omni up` runs on this machine, or else the one in the namespace of the
current kubeconfig, through the API server; it waits until that one serves. --url or OMNI_URL name an address instead.

  omni generate "a red three on black background" -o three.png
  omni generate "a green seven" -o seven.png --count 4 --seed 7 --steps 8
  omni generate "two plus five, in blue"                        (of a pipeline that has a language model)"""

POLL_SECONDS = 0.15
FOR_PICTURES = ("size", "steps", "guidance", "negative_prompt", "count")
FOR_TEXT = ("max_tokens",)


class BadOption(Exception):
    """An option cannot be used."""

    exit_code = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw, or to answer")
    parser.add_argument("-o", "--output", metavar="FILE", help="PNG file to write; -0, -1, … with --count")
    parser.add_argument("--url", help="address of the API, like http://127.0.0.1:8000 (default: found, or $OMNI_URL)")
    parser.add_argument("--pipeline", metavar="NAME", help="the pipeline, where there are several")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="its namespace (default: the kubeconfig's)")
    parser.add_argument("--size", metavar="WxH", help="width x height in pixels, like 32x32 (default: the model's own)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="how strictly to follow the prompt")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what not to draw")
    parser.add_argument("--count", type=int, metavar="N", help="how many pictures (default: 1)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of text at most")
    parser.add_argument("--json", action="store_true", help="tell of the files, or the text, as JSON")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="time to wait until it serves (default: 600)"
    )


def run(args: argparse.Namespace) -> int:
    require_options_that_fit(args)
    count = 1 if args.count is None else args.count
    files = output_files(Path(args.output), count) if args.output is not None else []
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    where = endpoint.find(args.url, args.pipeline, args.namespace, args.timeout, console.print)
    if not files and args.json:
        print(json.dumps({"text": "".join(written(where, question(args)))}))
        return 0
    if not files:
        for piece in written(where, question(args)):
            print(piece, end="", flush=True)
        print()
        return 0
    begin = time.monotonic()
    pictures = draw(where, body(args, count), console)
    seconds = time.monotonic() - begin
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(base64.b64decode(picture["b64_json"]))
    if args.json:
        told = [
            {"file": str(file), "seed": picture.get("seed", args.seed)}
            for file, picture in zip(files, pictures, strict=True)
        ]
        print(json.dumps({"seconds": round(seconds, 3), "pictures": told}))
        return 0
    for file, picture in zip(files, pictures, strict=True):
        seed = picture.get("seed", args.seed)
        print(f"{file}  seed {seed}  {seconds:.1f} s" if seed is not None else f"{file}  {seconds:.1f} s")
    return 0


def require_options_that_fit(args: argparse.Namespace) -> None:
    """Raise BadOption for an option of pictures where text is asked for, or the other way round."""
    kind, unfit = ("text", FOR_PICTURES) if args.output is None else ("pictures", FOR_TEXT)
    remedy = "give -o FILE for a picture" if args.output is None else "leave it out, or -o for text"
    for name in unfit:
        if getattr(args, name) is not None:
            raise BadOption(f"--{name.replace('_', '-')} is not an option of {kind}; {remedy}")


def output_files(output: Path, count: int) -> list[Path]:
    """One file a picture. Raises BadOption where they could not be written in the end."""
    if count < 1:
        raise BadOption(f"--count {count}: expected 1 or more")
    if output.is_dir():
        raise BadOption(f"-o {output}: is a folder; give the name of a file")
    if not output.absolute().parent.is_dir():
        raise BadOption(f"-o {output}: there is no folder {output.parent}; make it first")
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(count)]


def question(args: argparse.Namespace) -> dict[str, Any]:
    """The request for text, as OpenAI's client would send it; what was not given is the server's to choose."""
    wanted = {
        "messages": [{"role": "user", "content": args.prompt}],
        "seed": args.seed,
        "max_completion_tokens": args.max_tokens,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def body(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """The request for pictures, likewise."""
    wanted = {
        "prompt": args.prompt,
        "n": count,
        "response_format": "b64_json",
        "size": args.size,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "seed": args.seed,
        "negative_prompt": args.negative_prompt,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def draw(where: Endpoint, request: dict[str, Any], console: Console) -> list[dict[str, Any]]:
    """Send the request, and show its steps while it runs."""
    identity = uuid.uuid4().hex
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with (
        where.client() as client,
        ThreadPoolExecutor(1) as pool,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("drawing", total=None)
        answer = pool.submit(post, client, where, request, identity)
        seen: set[str] = set()
        furthest = 0
        while not answer.done():
            time.sleep(POLL_SECONDS)
            done, total = steps(client, identity, request["n"], seen)
            furthest = max(furthest, done)
            if total:
                progress.update(task, completed=furthest, total=total)
        return answer.result()


def post(client: httpx.Client, where: Endpoint, request: dict[str, Any], identity: str) -> list[dict[str, Any]]:
    with connection(where):
        response = client.post("/v1/images/generations", json=request, headers={"X-Request-Id": identity})
    require_success(where, response, "leave -o out for text")
    try:
        pictures: list[dict[str, Any]] = response.json()["data"]
    except (ValueError, KeyError, TypeError):
        raise NotAPipeline(where) from None
    return pictures


def steps(client: httpx.Client, identity: str, count: int, seen: set[str]) -> tuple[int, int]:
    """Steps done, and steps in all, of a request's pictures; (0, 0) while unknown. `seen` is kept between calls."""
    try:
        rows = client.get("/omni/requests", timeout=5.0).json()["requests"]
        own = {str(row["id"]): row for row in rows if str(row["id"]).partition("-")[0] == identity}
        each = max((int(row["total_steps"]) for row in own.values()), default=0)
        running = sum(int(row["step"]) for row in own.values())
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return 0, 0  # progress is a courtesy: the request itself tells what is wrong
    finished = len(seen - own.keys())
    seen |= own.keys()
    return running + finished * each, count * each
