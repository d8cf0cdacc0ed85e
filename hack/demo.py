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
AT_ONCE = 8
ENOUGH = 0.85
STARTUP_SECONDS = 180
STOP_SECONDS = 30
HEARTBEAT_SECONDS = 8

console = Console(highlight=False)


class DemoError(Exception):
    """What went wrong, in a sentence for the user."""


@dataclass(frozen=True)
class Order:
    """A prompt, what its picture must show, and its seed."""

    prompt: str
    request: Request
    seed: int


@dataclass(frozen=True)
class Delivery:
    """An order with its picture, what the classifier read, and how long the request took."""

    order: Order
    picture: Image.Image
    reading: Reading
    seconds: float

    @property
    def right(self) -> bool:
        """Whether digit, colour and background are as asked."""
        asked = self.order.request
        seen = self.reading
        return (seen.digit, seen.colour, seen.background) == (asked.digit, asked.colour, asked.background)


def orders() -> list[Order]:
    """20 prompts in the words of the training captions, four in a visitor's."""
    colours = list(COLOURS)
    made = []
    for index in range(20):
        request = Request(index % 10, colours[index * 3 % len(colours)], "grey" if index % 4 == 3 else "black")
        made.append(Order(request.caption, request, index))
    free = {
        "red 3 on grey": Request(3, "red", "grey"),
        "the number 7 in cyan": Request(7, "cyan", "black"),
        "a handwritten green five": Request(5, "green", "black"),
        "draw a magenta 8 on grey background": Request(8, "magenta", "grey"),
    }
    return made + [Order(prompt, request, 20 + index) for index, (prompt, request) in enumerate(free.items())]


@contextmanager
def pipeline_running(manifest: Path) -> Iterator[str]:
    """Run `omni up` for as long as the block; yields the API's address. It shows its own progress, on stderr."""
    command = [str(Path(sys.executable).with_name("omni")), "up", str(manifest)]
    console.print(f"[bold]$ omni up {os.path.relpath(manifest)}[/bold]")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True)
    lines: list[str] = []
    address: list[str] = []
    settled = threading.Event()

    def follow() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            console.print(f"  {line.rstrip()}", style="dim", markup=False)
            found = re.search(r"API: (https?://[^\s\x1b]+)", line)
            if found and not address:
                address.append(found.group(1))
                settled.set()
        settled.set()

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        classifier()  # takes about as long to learn as the pipeline to start
        if not settled.wait(STARTUP_SECONDS):
            raise DemoError(f"`omni up` named no API address within {STARTUP_SECONDS} s; its output is above")
        if not address:
            raise DemoError(f"`omni up` ended with exit code {process.wait()} before its API was up; see above")
        yield address[0].rstrip("/")
    finally:
        stop(process)
        reader.join(5)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask as Ctrl-C does, insist after a while."""
    for polite in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(polite)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            console.print(f"`omni up` is still running {STOP_SECONDS} s after {polite.name}")


def deliver(client: openai.OpenAI, model: str, order: Order) -> Delivery:
    """Send one order and read the picture that comes back."""
    started = time.monotonic()
    try:
        response = client.images.generate(
            model=model,
            prompt=order.prompt,
            size="32x32",
            response_format="b64_json",
            extra_body={"steps": 4, "guidance": 2.0, "seed": order.seed, "negative_prompt": " "},
        )
    except openai.OpenAIError as error:
        raise DemoError(f"the request for {order.prompt!r} failed: {error}") from error
    seconds = time.monotonic() - started
    encoded = response.data[0].b64_json if response.data else None
    if not encoded:
        raise DemoError(f"the answer to {order.prompt!r} holds no picture")
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    return Delivery(order, picture, read(picture), seconds)


def deliver_all(address: str, wanted: list[Order]) -> list[Delivery]:
    """Send all orders, eight at a time, with a progress bar; answers come back in the order they were asked."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120, max_retries=0)
    try:
        model = client.models.list().data[0].id
    except (openai.OpenAIError, IndexError) as error:
        raise DemoError(f"{address}/v1/models lists no model: {error}") from error
    classifier()
    columns = (TextColumn("painting"), SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(AT_ONCE) as pool:
        task = progress.add_task("painting", total=len(wanted))
        futures = {pool.submit(deliver, client, model, order): order for order in wanted}
        delivered = {}
        try:
            for future in as_completed(futures):
                delivered[futures[future]] = future.result()
                progress.advance(task)
        except DemoError:
            pool.shutdown(cancel_futures=True)
            raise
    return [delivered[order] for order in wanted]


def completed(address: str) -> Counter[str]:
    """How many requests each replica has finished, as the head knows it."""
    try:
        replicas = httpx.get(f"{address}/omni/replicas", timeout=10).raise_for_status().json()["replicas"]
    except httpx.HTTPError as error:
        raise DemoError(f"no pipeline answers at {address}: {error}") from error
    return Counter({replica["id"]: replica["completed"] for replica in replicas})


def shares(address: str, before: Counter[str], total: int) -> str:
    """Which replica painted how many of `total`; waits a little, as the head learns it from heartbeats."""
    patience = time.monotonic() + HEARTBEAT_SECONDS
    while (painted := completed(address) - before).total() < total and time.monotonic() < patience:
        time.sleep(0.1)
    return ", ".join(f"{name} painted {count}" for name, count in sorted(painted.items()))


def told(reading: Reading) -> str:
    """A reading in words, short enough for the sheet."""
    return f"{reading.colour} {reading.digit} on {reading.background}"


def report(deliveries: list[Delivery]) -> None:
    """Print what was asked, what was read, and the sums."""
    table = Table("asked", "read", "", "seconds", title="What the classifier read")
    for delivery in deliveries:
        sign = "[green]right[/]" if delivery.right else "[red]wrong[/]"
        table.add_row(delivery.order.prompt, told(delivery.reading), sign, f"{delivery.seconds:.2f}")
    console.print(table)
    total = len(deliveries)
    for part in ("digit", "colour", "background"):
        right = sum(getattr(item.reading, part) == getattr(item.order.request, part) for item in deliveries)
        console.print(f"{part:<10} right in {right} of {total}")


def demonstrate(address: str, output: Path) -> bool:
    """Everything that needs a running API; returns whether enough is right."""
    before = completed(address)
    started = time.monotonic()
    deliveries = deliver_all(address, orders())
    seconds = time.monotonic() - started
    right = sum(delivery.right for delivery in deliveries)
    summary = f"{right} of {len(deliveries)} show what was asked"
    speed = f"{len(deliveries)} prompts, {AT_ONCE} at a time, in {seconds:.1f} s"
    report(deliveries)
    cells = [Cell(item.picture, item.order.prompt, told(item.reading), item.right) for item in deliveries]
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet("OmniPipeline: builtin://digits", f"{speed}; {summary}", cells, columns=8).save(output)
    console.print(f"{speed}; {shares(address, before, len(deliveries))}")
    console.print(f"[bold]{summary}[/bold]; the pictures are in {os.path.relpath(output)}")
    return right >= ENOUGH * len(deliveries)


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="the OmniPipeline to run")
    parser.add_argument("--api", help="use an API that already runs, such as http://127.0.0.1:8000; starts nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo.png")
    options = parser.parse_args()
    try:
        if options.api:
            enough = demonstrate(options.api.rstrip("/"), options.output)
        else:
            with pipeline_running(options.manifest) as address:
                enough = demonstrate(address, options.output)
    except (DemoError, OSError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    if not enough:
        console.print(f"demo: fewer than {ENOUGH:.0%} of the pictures show what was asked", style="red")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
