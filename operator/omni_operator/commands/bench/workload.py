"""The requests of a benchmark and when they are sent: mixes of sizes and steps, Poisson arrivals, traces.

Everything random comes from a seed, so two pipelines, or two runs, get the same requests. Pure, except for reading a
trace.
"""

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIX_ENTRY = re.compile(r"(?:(\d+)x)?(\d+)x(\d+)(?::(\d+(?:\.\d+)?))?")
IMAGES_PATH, CHAT_PATH = "/v1/images/generations", "/v1/chat/completions"
PROMPTS = ("a red three on black background", "a green seven on grey background", "a blue five on white background")
MAX_SEED = 2**31


class BadWorkload(Exception):
    """A mix, a trace or a combination of flags cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class RequestKind:
    """Requests with the same number of steps and the same size in pixels. `weight` is their share of a mix."""

    steps: int | None
    width: int
    height: int
    weight: float = 1.0

    @property
    def name(self) -> str:
        size = f"{self.width}x{self.height}"
        return size if self.steps is None else f"{self.steps} steps {size}"


@dataclass(frozen=True)
class BenchRequest:
    """A request. `due` is when to send it, in seconds from the start; None means after an earlier one has ended."""

    kind: str
    path: str
    body: dict[str, Any]
    due: float | None = None


def parse_mix(text: str) -> list[RequestKind]:
    """Parse STEPSxWIDTHxHEIGHT[:WEIGHT],…; STEPS is optional. Raises BadWorkload."""
    kinds = []
    for entry in text.split(","):
        match = MIX_ENTRY.fullmatch(entry.strip())
        if not match or "0" in match.groups()[:3]:
            raise BadWorkload(f"--mix: {entry!r} is not STEPSxWIDTHxHEIGHT[:WEIGHT], like 4x32x32:3")
        steps, width, height, weight = match.groups()
        kinds.append(RequestKind(int(steps) if steps else None, int(width), int(height), float(weight or 1)))
    if not sum(kind.weight for kind in kinds):
        raise BadWorkload("--mix: all weights are 0")
    return kinds


def image_request(kind: RequestKind | None, prompt: str, seed: int) -> BenchRequest:
    """A request for one image. Without a kind, the model chooses the size and the steps."""
    body: dict[str, Any] = {"prompt": prompt, "seed": seed, "n": 1, "response_format": "b64_json"}
    if kind is None:
        return BenchRequest("as the model likes", IMAGES_PATH, body)
    body["size"] = f"{kind.width}x{kind.height}"
    if kind.steps is not None:
        body["num_inference_steps"] = kind.steps
    return BenchRequest(kind.name, IMAGES_PATH, body)


def random_requests(kinds: Sequence[RequestKind], prompts: Sequence[str], seed: int) -> Iterator[BenchRequest]:
    """An endless stream of requests, whose kinds are chosen by weight."""
    generator = random.Random(seed)
    weights = [kind.weight for kind in kinds]
    for number in itertools.count():
        kind = generator.choices(kinds, weights)[0] if kinds else None
        yield image_request(kind, prompts[number % len(prompts)], generator.randrange(MAX_SEED))


def with_poisson_arrivals(requests: Iterator[BenchRequest], rate: float, seed: int) -> Iterator[BenchRequest]:
    """The same requests, due as a Poisson process with `rate` arrivals per second."""
    generator, due = random.Random(f"arrivals {seed}"), 0.0
    for request in requests:
        due += generator.expovariate(rate)
        yield dataclasses.replace(request, due=due)


def warm_up_requests(kinds: Sequence[RequestKind], prompts: Sequence[str]) -> list[BenchRequest]:
    """One request of each kind."""
    return [image_request(kind, prompts[0], 0) for kind in kinds] or [image_request(None, prompts[0], 0)]


def read_trace(file: Path, speed: float) -> list[BenchRequest]:
    """The requests of a JSONL file, in order of time. Raises BadWorkload.

    Each line is the body of a request, with its time `at` in seconds. A body with `messages` asks for text.
    """
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadWorkload(f"--trace: {error}") from None
    requests = []
    for number, line in enumerate(lines, 1):
        try:
            body = json.loads(line)
            due = float(body.pop("at")) / speed
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadWorkload(f"--trace: {file}:{number}: expected an object with `at`, the time in seconds") from None
        if not due >= 0 or not ("prompt" in body or "messages" in body):
            raise BadWorkload(f"--trace: {file}:{number}: expected a `prompt` or `messages`, and an `at` of 0 or more")
        path = CHAT_PATH if "messages" in body else IMAGES_PATH
        requests.append(BenchRequest(_kind_name(body), path, body, due))
    if not requests:
        raise BadWorkload(f"--trace: {file} is empty")
    return sorted(requests, key=lambda request: request.due or 0.0)


def _kind_name(body: dict[str, Any]) -> str:
    """The name of the kind of a request in a trace."""
    if "messages" in body:
        return "text"
    steps, size = body.get("num_inference_steps", body.get("steps")), body.get("size", "auto")
    return f"{steps} steps {size}" if steps else str(size)
