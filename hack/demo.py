"""The demonstration behind `make demo`: a pipeline on this machine, 24 prompts through its API, a sheet to look at.

Starts `omni up examples/digits.yaml`, asks for pictures with the official `openai` client, eight at a time, writes
out/demo.png, and lets an independent classifier say what each picture shows. Exit code 1: fewer than 85 % are right.
"""

import argparse
import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from omni_worker.models.digits_reader import Reading, classifier, read
from omni_worker.models.digits_recipe.captions import COLOURS, Request
from sheet import Cell, sheet

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "examples" / "digits.yaml"
CONCURRENCY = 8
MIN_RIGHT_FRACTION = 0.85
STARTUP_SECONDS = 180
STOP_SECONDS = 30
HEARTBEAT_SECONDS = 8

console = Console(highlight=False)


class DemoError(Exception):
    """The demonstration failed. The message is a sentence for the user."""


@dataclass(frozen=True)
class DemoPrompt:
    """A prompt, what its image must show, and its seed."""

    text: str
    expected: Request
    seed: int


@dataclass(frozen=True)
class DemoResult:
    """The image of a prompt, what the classifier reads in it, and how long the request took."""

    prompt: DemoPrompt
    image: Image.Image
    reading: Reading
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether the digit, the colour and the background are those of the prompt."""
        expected, actual = self.prompt.expected, self.reading
        return (actual.digit, actual.colour, actual.background) == (
            expected.digit,
            expected.colour,
            expected.background,
        )


def demo_prompts() -> list[DemoPrompt]:
    """20 prompts in the words of the training captions, and four in other words."""
    colours = list(COLOURS)
    prompts = []
    for index in range(20):
        request = Request(index % 10, colours[index * 3 % len(colours)], "grey" if index % 4 == 3 else "black")
        prompts.append(DemoPrompt(request.caption, request, index))
    in_other_words = {
        "red 3 on grey": Request(3, "red", "grey"),
        "the number 7 in cyan": Request(7, "cyan", "black"),
        "a handwritten green five": Request(5, "green", "black"),
        "draw a magenta 8 on grey background": Request(8, "magenta", "grey"),
    }
    return prompts + [
        DemoPrompt(text, request, 20 + index) for index, (text, request) in enumerate(in_other_words.items())
    ]


@contextmanager
def pipeline_running(manifest: Path) -> Iterator[str]:
    """Runs `omni up` during the block, and yields the address of the API. `omni up` shows its progress on stderr."""
    command = [str(Path(sys.executable).with_name("omni")), "up", str(manifest)]
    console.print(f"[bold]$ omni up {os.path.relpath(manifest)}[/bold]")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True)
    lines: list[str] = []
    address: list[str] = []
    serves_or_ended = threading.Event()

    def read_output() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            console.print(f"  {line.rstrip()}", style="dim", markup=False)
            found = re.search(r"API: (https?://[^\s\x1b]+)", line)
            if found and not address:
                address.append(found.group(1))
                serves_or_ended.set()
        serves_or_ended.set()

    reader = threading.Thread(target=read_output, daemon=True)
    reader.start()
    try:
        classifier()  # trains the classifier while the pipeline starts
        if not serves_or_ended.wait(STARTUP_SECONDS):
            raise DemoError(f"`omni up` named no API address within {STARTUP_SECONDS} s; its output is above")
        if not address:
            raise DemoError(f"`omni up` ended with exit code {process.wait()} before its API was up; see above")
        yield address[0].rstrip("/")
    finally:
        stop(process)
        reader.join(5)


def stop(process: subprocess.Popen[str]) -> None:
    """Interrupt the process like Ctrl-C does, and send stronger signals if it does not end."""
    for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(stop_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            console.print(f"`omni up` is still running {STOP_SECONDS} s after {stop_signal.name}")


def generate(client: openai.OpenAI, model: str, prompt: DemoPrompt) -> DemoResult:
    """Generate the image of a prompt, and read it. Raises DemoError."""
    started = time.monotonic()
    try:
        response = client.images.generate(
            model=model,
            prompt=prompt.text,
            size="32x32",
            response_format="b64_json",
            extra_body={"steps": 4, "guidance": 2.0, "seed": prompt.seed, "negative_prompt": " "},
        )
    except openai.OpenAIError as error:
        raise DemoError(f"the request for {prompt.text!r} failed: {error}") from error
    seconds = time.monotonic() - started
    encoded = response.data[0].b64_json if response.data else None
    if not encoded:
        raise DemoError(f"the answer to {prompt.text!r} holds no picture")
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    return DemoResult(prompt, image, read(image), seconds)


def generate_all(address: str, prompts: list[DemoPrompt]) -> list[DemoResult]:
    """Generate the images of all prompts, eight at a time, with a progress bar. The results keep the prompts' order."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120, max_retries=0)
    try:
        model = client.models.list().data[0].id
    except (openai.OpenAIError, IndexError) as error:
        raise DemoError(f"{address}/v1/models lists no model: {error}") from error
    classifier()
    columns = (TextColumn("painting"), SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(CONCURRENCY) as pool:
        task = progress.add_task("painting", total=len(prompts))
        futures = {pool.submit(generate, client, model, prompt): prompt for prompt in prompts}
        results = {}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                progress.advance(task)
        except DemoError:
            pool.shutdown(cancel_futures=True)
            raise
    return [results[prompt] for prompt in prompts]


def completed_by_replica(address: str) -> Counter[str]:
    """How many requests each replica has completed, as the head reports it."""
    try:
        replicas = httpx.get(f"{address}/omni/replicas", timeout=10).raise_for_status().json()["replicas"]
    except httpx.HTTPError as error:
        raise DemoError(f"no pipeline answers at {address}: {error}") from error
    return Counter({replica["id"]: replica["completed"] for replica in replicas})


def replica_shares(address: str, before: Counter[str], total: int) -> str:
    """How many of `total` images each replica generated. Waits for the next heartbeats, which report it to the head."""
    deadline = time.monotonic() + HEARTBEAT_SECONDS
    while (painted := completed_by_replica(address) - before).total() < total and time.monotonic() < deadline:
        time.sleep(0.1)
    return ", ".join(f"{name} painted {count}" for name, count in sorted(painted.items()))


def describe(reading: Reading) -> str:
    """A reading in words, short enough for the sheet."""
    return f"{reading.colour} {reading.digit} on {reading.background}"


def print_results(results: list[DemoResult]) -> None:
    """Print each prompt with what the classifier read, and the totals."""
    table = Table("asked", "read", "", "seconds", title="What the classifier read")
    for result in results:
        sign = "[green]right[/]" if result.is_right else "[red]wrong[/]"
        table.add_row(result.prompt.text, describe(result.reading), sign, f"{result.seconds:.2f}")
    console.print(table)
    total = len(results)
    for part in ("digit", "colour", "background"):
        right = sum(getattr(each.reading, part) == getattr(each.prompt.expected, part) for each in results)
        console.print(f"{part:<10} right in {right} of {total}")


def demonstrate(address: str, output: Path) -> bool:
    """Run the demonstration with a running API, and return whether enough images are right."""
    before = completed_by_replica(address)
    started = time.monotonic()
    results = generate_all(address, demo_prompts())
    seconds = time.monotonic() - started
    right = sum(result.is_right for result in results)
    summary = f"{right} of {len(results)} show what was asked"
    speed = f"{len(results)} prompts, {CONCURRENCY} at a time, in {seconds:.1f} s"
    print_results(results)
    cells = [Cell(each.image, each.prompt.text, describe(each.reading), each.is_right) for each in results]
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet("OmniPipeline: builtin://digits", f"{speed}; {summary}", cells, columns=8).save(output)
    console.print(f"{speed}; {replica_shares(address, before, len(results))}")
    console.print(f"[bold]{summary}[/bold]; the pictures are in {os.path.relpath(output)}")
    return right >= MIN_RIGHT_FRACTION * len(results)


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="the OmniPipeline to run")
    parser.add_argument("--api", help="use an API that already runs, such as http://127.0.0.1:8000; starts nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo.png")
    options = parser.parse_args()
    try:
        if options.api:
            has_passed = demonstrate(options.api.rstrip("/"), options.output)
        else:
            with pipeline_running(options.manifest) as address:
                has_passed = demonstrate(address, options.output)
    except (DemoError, OSError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    if not has_passed:
        console.print(f"demo: fewer than {MIN_RIGHT_FRACTION:.0%} of the pictures show what was asked", style="red")
    return 0 if has_passed else 1


if __name__ == "__main__":
    sys.exit(main())
