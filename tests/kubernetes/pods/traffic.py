"""A user of a pipeline in the cluster: the official client, through kubectl port-forward to the API Service."""

import base64
import io
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import OpenAI
from PIL import Image

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


class Pipeline:
    """A pipeline's API, at a local address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=900, max_retries=0)

    def draw(self, wish: Wish, request_id: str = "") -> Image.Image:
        answer = self._client.images.generate(
            model="digits",
            prompt=wish.prompt,
            size="32x32",
            response_format="b64_json",
            extra_headers={"X-Request-Id": request_id} if request_id else {},
            extra_body={"num_inference_steps": wish.steps, "guidance_scale": 2, "seed": wish.seed},
        )
        assert answer.data
        return Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))

    def fulfils(self, wish: Wish) -> bool:
        """Whether an independent classifier reads from the picture what was wished for."""
        seen = read(self.draw(wish))
        return (seen.digit, seen.colour, seen.background) == (wish.digit, wish.colour, wish.background)

    def replicas(self) -> dict[str, dict[str, Any]]:
        """The replicas that are UP, by the name of their pod."""
        listed = httpx.get(f"{self._url}/omni/replicas", timeout=30).json()["replicas"]
        return {each["host"]: each for each in listed if each["state"] == "UP"}

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
