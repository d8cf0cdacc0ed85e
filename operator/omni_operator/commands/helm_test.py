"""What `helm test` runs in the cluster: a small pipeline is made, asked for a picture, and removed again.

`python -m omni_operator.commands.helm_test --namespace NAME`. The model is built in and runs on the CPU, so it needs no
device and no download.
"""

import argparse
import base64
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import API_VERSION, KIND
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import PIPELINES, Resource
from omni_operator.planning.topology.records import CLUSTER_HEAD

POLL_SECONDS = 2.0
PNG = b"\x89PNG"
PROMPT = "a red three on black background"


class Failed(Exception):
    """The installation does not serve; the text says what it was waiting for."""


class Pipelines(Protocol):
    """What of a Cluster is used here."""

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool) -> Object: ...
    def get(self, resource: Resource, namespace: str, name: str) -> Object | None: ...
    def delete(self, resource: Resource, child: Mapping[str, Any]) -> None: ...


def manifest(namespace: str, name: str) -> Object:
    stage = {"name": "painter", "engine": "diffusion", "startupTimeoutSeconds": 300}
    spec = {"model": {"source": "builtin://digits"}, "stages": [stage], "replicas": 1}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def check(
    cluster: Pipelines,
    namespace: str,
    name: str,
    seconds: float,
    draw: Callable[[str], bytes],
    say: Callable[[str], None],
) -> None:
    """Raises Failed where no picture comes in time. Leaves nothing behind either way."""
    made = cluster.apply(PIPELINES, manifest(namespace, name), force=True)
    say(f"made pipeline {name} in namespace {namespace}")
    try:
        wait_ready(cluster, namespace, name, time.monotonic() + seconds, say)
        picture = draw(f"http://{name}.{namespace}.svc:{CLUSTER_HEAD.api}")
        if not picture.startswith(PNG):
            raise Failed(f"{name} answered with something that is not a PNG: {picture[:40]!r}")
        say(f"{name} drew a picture of {len(picture)} bytes")
    finally:
        cluster.delete(PIPELINES, made)


def wait_ready(cluster: Pipelines, namespace: str, name: str, deadline: float, say: Callable[[str], None]) -> None:
    told = ""
    while True:
        ready = condition(cluster.get(PIPELINES, namespace, name) or {})
        if ready.get("status") == "True":
            return
        message = ready.get("message") or "the operator has not looked at it; is it running?"
        if message != told:
            say(message)
            told = message
        if time.monotonic() > deadline:
            raise Failed(f"pipeline {name} does not serve: {message}")
        time.sleep(POLL_SECONDS)


def condition(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = (pipeline.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == "Ready"), {})


def draw(url: str) -> bytes:
    """A picture, as the pipeline at an address draws it. Raises Failed."""
    body = {"prompt": PROMPT, "response_format": "b64_json", "num_inference_steps": 4}
    try:
        answer = httpx.post(f"{url}/v1/images/generations", json=body, timeout=120.0, trust_env=False)
        answer.raise_for_status()
        return base64.b64decode(answer.json()["data"][0]["b64_json"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
        raise Failed(f"{url} gave no picture: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m omni_operator.commands.helm_test", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--name", default="helm-test")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS")
    args = parser.parse_args()
    try:
        check(Cluster(), args.namespace, args.name, args.timeout, draw, lambda text: print(text, flush=True))
    except (Failed, ApiError, Unreachable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
