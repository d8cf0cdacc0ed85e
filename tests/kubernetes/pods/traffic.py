"""A user of a pipeline in the cluster: the official client, through kubectl port-forward to the API Service."""

import base64
import io
import itertools
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from openai import OpenAI
from PIL import Image, ImageChops

from omni_worker.models.digits_reader import read
from tests.kubernetes.apiserver.operators import Kubectl

COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta", "orange", "white")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Wish:
    """A digit in a colour, and the seed to draw it from."""

    digit: int
    colour: str
    background: str = "black"
    seed: int = 1
    steps: int = 4

    @property
    def prompt(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {DIGITS[self.digit]} on {self.background} background"


@dataclass(frozen=True)
class Sum(Wish):
    """A digit that the thinker has to find first: as the sum of one number and another."""

    number: int = 0

    @property
    def prompt(self) -> str:
        return f"{DIGITS[self.number]} plus {DIGITS[self.digit - self.number]}, in {self.colour}"


def shows(picture: Image.Image, wish: Wish) -> bool:
    """Whether an independent classifier reads from the picture what was wished for."""
    seen = read(picture)
    return (seen.digit, seen.colour, seen.background) == (wish.digit, wish.colour, wish.background)


def are_equal(one: Image.Image, other: Image.Image) -> bool:
    """Within two of 255 levels, which is what batches may change."""
    return max(high for _, high in ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()) <= 2


class Pipeline:
    """A pipeline's API, at a local address."""

    def __init__(self, url: str, name: str = "digits") -> None:
        self._url, self.name = url, name
        self._client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=900, max_retries=0)

    def draw(self, wish: Wish, request_id: str = "") -> Image.Image:
        answer = self._client.images.generate(
            model=self.name,
            prompt=wish.prompt,
            size="32x32",
            response_format="b64_json",
            extra_headers={"X-Request-Id": request_id} if request_id else {},
            extra_body={"num_inference_steps": wish.steps, "guidance_scale": 2, "seed": wish.seed},
        )
        assert answer.data
        return Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))

    def fulfils(self, wish: Wish) -> bool:
        """Whether what it draws shows what was wished for."""
        return shows(self.draw(wish), wish)

    def written(self, prompt: str) -> str:
        """The text that answers a prompt, put together from its stream."""
        stream = self._client.chat.completions.create(
            model=self.name, messages=[{"role": "user", "content": prompt}], modalities=["text"], stream=True
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def replicas(self, stage: str | None = None) -> dict[str, dict[str, Any]]:
        """The replicas that are UP, by the name of their pod: all, or those of one stage."""
        listed = httpx.get(f"{self._url}/omni/replicas", timeout=30).json()["replicas"]
        return {each["host"]: each for each in listed if each["state"] == "UP" and stage in (None, each["stage"])}

    def completed(self) -> dict[str, int]:
        return {pod: each["completed"] for pod, each in self.replicas().items()}

    def is_idle(self) -> bool:
        return not any(
            each["queue_length"] or each["running"] or each["in_flight"] for each in self.replicas().values()
        )

    def running(self) -> dict[str, str]:
        """The requests that run now, and the replica of each."""
        listed = httpx.get(f"{self._url}/omni/requests", timeout=30).json()["requests"]
        return {each["id"]: each["replica"] for each in listed if each["replica"]}


class Load:
    """A few users who ask without a pause, until told to stop.

    The model is not always right: what shows something else is asked for again in the end, when nothing disturbs it.
    """

    def __init__(self, pipeline: Pipeline, wishes: Sequence[Wish], users: int) -> None:
        self._pipeline, self._wishes, self._users = pipeline, wishes, users
        self._stopped = threading.Event()
        self.right: list[str] = []
        self.wrong: list[str] = []
        """What did not come, or came out as something else than it does undisturbed."""
        self._doubtful: list[tuple[Wish, Image.Image]] = []

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._ask, args=(user,)) for user in range(self._users)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for wish, picture in self._doubtful:
            is_the_same = are_equal(self._pipeline.draw(wish), picture)
            (self.right if is_the_same else self.wrong).append(f"{wish.prompt}, seed {wish.seed}")

    def more(self, count: int = 6) -> None:
        """Return when this many answers more have come."""
        enough = self.told + count
        deadline = time.monotonic() + 300
        while self.told < enough:
            assert time.monotonic() < deadline, f"no more answers than {self.told}"
            time.sleep(0.2)

    @property
    def told(self) -> int:
        return len(self.right) + len(self.wrong) + len(self._doubtful)

    def _ask(self, user: int) -> None:
        for number in itertools.count(user, self._users):
            if self._stopped.is_set():
                return
            wish = replace(self._wishes[number % len(self._wishes)], seed=number)
            try:
                picture = self._pipeline.draw(wish)
                if shows(picture, wish):
                    self.right.append(wish.prompt)
                else:
                    self._doubtful.append((wish, picture))
            except Exception as error:  # of whatever kind: it is a request that failed
                self.wrong.append(f"{wish.prompt}: {error!r}")


@contextmanager
def forwarded(kubectl: Kubectl, target: str, port: int) -> Iterator[str]:
    """The local address that `kubectl port-forward` gives a Service or pod."""
    command = ["kubectl", f"--kubeconfig={kubectl.kubeconfig}", f"--namespace={kubectl.namespace}"]
    command += ["port-forward", target, f":{port}", "--address=127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            first = process.stdout.readline()
            match = re.search(r"127\.0\.0\.1:(\d+)", first)
            assert match, first + process.stderr.read()
            # It reports every connection, and would stop where nobody reads that.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{match[1]}"
        finally:
            process.kill()
