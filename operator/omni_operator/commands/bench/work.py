"""What a benchmark asks for, and when: mixes of sizes and steps, Poisson arrivals, traces. Pure but for reading a file.

Everything is drawn from a seed, so two pipelines, or two days, get the same requests.
"""

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENTRY = re.compile(r"(?:(\d+)x)?(\d+)x(\d+)(?::(\d+(?:\.\d+)?))?")
PICTURES, CHAT = "/v1/images/generations", "/v1/chat/completions"
PROMPTS = ("a red three on black background", "a green seven on grey background", "a blue five on white background")


class BadWork(Exception):
    """A mix or a trace cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Kind:
    """Requests of one number of steps and one size, which come in proportion to `weight`."""

    steps: int | None
    width: int
    height: int
    weight: float = 1.0

    @property
    def name(self) -> str:
        size = f"{self.width}x{self.height}"
        return size if self.steps is None else f"{self.steps} steps {size}"


@dataclass(frozen=True)
class Work:
    """A request; `due` is when, in seconds from the beginning, or None where it comes after another."""

    kind: str
    path: str
    body: dict[str, Any]
    due: float | None = None


def parse_mix(text: str) -> list[Kind]:
    """Read STEPSxWIDTHxHEIGHT[:WEIGHT],… where STEPS may be left out. Raises BadWork."""
    kinds = []
    for entry in text.split(","):
        match = ENTRY.fullmatch(entry.strip())
        if not match or "0" in match.groups()[:3]:
            raise BadWork(f"--mix: {entry!r} is not STEPSxWIDTHxHEIGHT[:WEIGHT], like 4x32x32:3")
        steps, width, height, weight = match.groups()
        kinds.append(Kind(int(steps) if steps else None, int(width), int(height), float(weight or 1)))
    if not sum(kind.weight for kind in kinds):
        raise BadWork("--mix: all weights are 0")
    return kinds


def picture(kind: Kind | None, prompt: str, seed: int) -> Work:
    """A request for one picture; without a kind, of the model's own size and steps."""
    body: dict[str, Any] = {"prompt": prompt, "seed": seed, "n": 1, "response_format": "b64_json"}
    if kind is None:
        return Work("as the model likes", PICTURES, body)
    body["size"] = f"{kind.width}x{kind.height}"
    if kind.steps is not None:
        body["num_inference_steps"] = kind.steps
    return Work(kind.name, PICTURES, body)


def endless(kinds: Sequence[Kind], prompts: Sequence[str], seed: int) -> Iterator[Work]:
    """Requests without end, of kinds drawn by weight."""
    chance = random.Random(seed)
    weights = [kind.weight for kind in kinds]
    for number in itertools.count():
        kind = chance.choices(kinds, weights)[0] if kinds else None
        yield picture(kind, prompts[number % len(prompts)], chance.randrange(2**31))


def arriving(works: Iterator[Work], rate: float, seed: int) -> Iterator[Work]:
    """The same, due as a Poisson process of `rate` a second has it."""
    chance, due = random.Random(f"arrivals {seed}"), 0.0
    for work in works:
        due += chance.expovariate(rate)
        yield Work(work.kind, work.path, work.body, due)


def one_of_each(kinds: Sequence[Kind], prompts: Sequence[str]) -> list[Work]:
    """Requests to warm up with."""
    return [picture(kind, prompts[0], 0) for kind in kinds] or [picture(None, prompts[0], 0)]


def read_trace(file: Path, speed: float) -> list[Work]:
    """Requests of a JSONL file, in order of time: `at` in seconds, and otherwise the body as the API takes it. Those
    with `messages` ask for text. Raises BadWork."""
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadWork(f"--trace: {error}") from None
    works = []
    for number, line in enumerate(lines, 1):
        try:
            body = json.loads(line)
            due = float(body.pop("at")) / speed
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadWork(f"--trace: {file}:{number}: expected an object with `at`, the time in seconds") from None
        if not due >= 0 or not ("prompt" in body or "messages" in body):
            raise BadWork(f"--trace: {file}:{number}: expected a `prompt` or `messages`, and an `at` of 0 or more")
        works.append(Work(_name(body), CHAT if "messages" in body else PICTURES, body, due))
    if not works:
        raise BadWork(f"--trace: {file} is empty")
    return sorted(works, key=lambda work: work.due or 0.0)


def _name(body: dict[str, Any]) -> str:
    if "messages" in body:
        return "text"
    steps, size = body.get("num_inference_steps", body.get("steps")), body.get("size", "auto")
    return f"{steps} steps {size}" if steps else str(size)
