"""What `helm test` runs in the cluster: a small pipeline is made, asked for a picture, and removed again.

`python -m omni_operator.commands.helm_test --namespace NAME`. The model is built in and runs on the CPU, so it needs no
device and no download.
"""

import argparse
import base64
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import API_VERSION, KIND
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import PIPELINES, Resource
from omni_operator.planning.topology.records import CLUSTER_HEAD

POLL_SECONDS = 2.0
IMAGE_SECONDS = 120.0
CONNECT_SECONDS = 60.0
PNG_SIGNATURE = b"\x89PNG"
PROMPT = "a red three on black background"


class HelmTestFailed(Exception):
    """The installation does not serve. The message says what the test was waiting for."""


class ObjectClient(Protocol):
    """The methods of a Cluster that the test needs."""

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool) -> Object: ...
    def get(self, resource: Resource, namespace: str, name: str) -> Object | None: ...
    def delete(self, resource: Resource, child: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class HelmTest:
    """Creates a pipeline, generates an image with it, and deletes it.

    `timeout` is in seconds. `generate_image` gets the address of the pipeline's API. `report` gets each step, as text.
    """

    cluster: ObjectClient
    namespace: str
    name: str
    timeout: float
    generate_image: Callable[[str], bytes]
    report: Callable[[str], None]

    def run(self) -> None:
        """Raises HelmTestFailed if no image arrives in time. Deletes the pipeline in any case."""
        pipeline = self.cluster.apply(PIPELINES, self.manifest(), force=True)
        self.report(f"created pipeline {self.name} in namespace {self.namespace}")
        try:
            self.wait_ready()
            image = self.generate_image(f"http://{self.name}.{self.namespace}.svc:{CLUSTER_HEAD.api}")
            if not image.startswith(PNG_SIGNATURE):
                raise HelmTestFailed(f"{self.name} returned something that is not a PNG: {image[:40]!r}")
            self.report(f"{self.name} generated an image of {len(image)} bytes")
        finally:
            self.cluster.delete(PIPELINES, pipeline)

    def manifest(self) -> Object:
        stage = {"name": "painter", "engine": "diffusion", "startupTimeoutSeconds": 300}
        spec = {"model": {"source": "builtin://digits"}, "stages": [stage], "replicas": 1}
        metadata = {"name": self.name, "namespace": self.namespace}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}

    def wait_ready(self) -> None:
        """Return once the pipeline is ready. Reports each reason once. Raises HelmTestFailed after the timeout."""
        deadline, reported = time.monotonic() + self.timeout, ""
        while True:
            ready = ready_condition(self.cluster.get(PIPELINES, self.namespace, self.name) or {})
            if ready.get("status") == "True":
                return
            message = ready.get("message") or "the operator has not seen it; is it running?"
            if message != reported:
                self.report(message)
                reported = message
            if time.monotonic() > deadline:
                raise HelmTestFailed(f"pipeline {self.name} does not serve: {message}")
            time.sleep(POLL_SECONDS)


def ready_condition(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition Ready of a pipeline's status; empty if the operator has not written it."""
    conditions = (pipeline.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def generate_image(url: str) -> bytes:
    """An image from the pipeline at an address. Raises HelmTestFailed.

    A node learns of a new Service's name and endpoints a moment after the pipeline is Ready, so this connects again
    until it succeeds.
    """
    request = {"prompt": PROMPT, "response_format": "b64_json", "num_inference_steps": 4}
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            response = httpx.post(f"{url}/v1/images/generations", json=request, timeout=IMAGE_SECONDS, trust_env=False)
            response.raise_for_status()
            return base64.b64decode(response.json()["data"][0]["b64_json"])
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if time.monotonic() > deadline:
                raise HelmTestFailed(f"{url} cannot be reached from a pod: {error}") from error
            time.sleep(POLL_SECONDS)
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            raise HelmTestFailed(f"{url} did not return an image: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m omni_operator.commands.helm_test", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--name", default="helm-test")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS")
    args = parser.parse_args()

    def report(text: str) -> None:
        print(text, flush=True)

    try:
        HelmTest(Cluster(), args.namespace, args.name, args.timeout, generate_image, report).run()
    except (HelmTestFailed, ApiError, Unreachable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
