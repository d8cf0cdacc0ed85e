"""Finds the API of a pipeline: a given address, a running `omni up`, or a pipeline in the current cluster."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from omni_operator.client import local_runs
from omni_operator.crd.objects import Object

if TYPE_CHECKING:
    from omni_operator.kube.client import Cluster

POLL_SECONDS = 1.0
FORWARD = "through the API server no key can be shown: forward the Service's port, give --url, and set OMNI_API_KEY"
HOW_TO = "give --url, set OMNI_URL, run `omni up FILE` on this machine, or apply a pipeline to the current cluster"


class NoEndpoint(Exception):
    """There is no API to talk to; the message says what to do."""

    exit_code = 1


@dataclass(frozen=True)
class Wanted:
    """Which pipeline is meant: by its address, or by its name, namespace and context of the kubeconfig, all as far as
    they were given."""

    url: str | None = None
    pipeline: str | None = None
    namespace: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where an API is, in words too, what a request to it needs, and what to do where it wants another key."""

    url: str
    description: str
    verify: Any = True
    headers: dict[str, str] = field(default_factory=dict)
    without_key: str = "set OMNI_API_KEY to one of its keys"

    def client(self) -> httpx.Client:
        """A client that waits as long as drawing takes, but not for a connection."""
        timeout = httpx.Timeout(None, connect=10.0)
        return httpx.Client(base_url=self.url, verify=self.verify, headers=self.headers, timeout=timeout)


def find(wanted: Wanted, timeout: float, tell: Callable[[str], None]) -> Endpoint:
    """The one API that is meant. Waits up to `timeout` seconds for a pipeline that starts. Raises NoEndpoint."""
    is_named = wanted.pipeline or wanted.namespace or wanted.context
    given = wanted.url or (None if is_named else os.environ.get("OMNI_URL"))
    if given:
        if not given.startswith(("http://", "https://")):
            raise NoEndpoint(f"{given!r} is not an address; expected one like http://127.0.0.1:8000")
        return Endpoint(given.rstrip("/"), given, headers=key())
    if wanted.namespace is None and wanted.context is None:
        local = running_here(wanted.pipeline)
        if local:
            return local
    return in_cluster(wanted, timeout, tell)


def running_here(pipeline: str | None) -> Endpoint | None:
    found = [run for run in local_runs.running() if pipeline in (None, run.pipeline) and answers(run.url)]
    if len(found) > 1:
        several = ", ".join(f"{run.pipeline} at {run.url}" for run in found)
        raise NoEndpoint(f"several pipelines run on this machine ({several}); choose one with --pipeline or --url")
    return Endpoint(found[0].url, f"{found[0].pipeline} on this machine", headers=key()) if found else None


def key() -> dict[str, str]:
    """The header that shows the API's key, where OMNI_API_KEY has one; through an API server none can be shown."""
    secret = os.environ.get("OMNI_API_KEY")
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def answers(url: str) -> bool:
    """Whether a head lives there: process ids are reused, so a note alone proves little."""
    try:
        return httpx.get(f"{url}/livez", timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def in_cluster(wanted: Wanted, timeout: float, tell: Callable[[str], None]) -> Endpoint:
    from omni_operator.kube.client import Cluster
    from omni_operator.kube.errors import ApiError, NoCredentials, Unreachable
    from omni_operator.kube.kubeconfig import current_namespace

    try:
        cluster = Cluster(wanted.context)
        namespace = wanted.namespace or current_namespace(wanted.context)
        name = wanted.pipeline or only_one(cluster, namespace)
        found = wait_until_it_serves(cluster, namespace, name, timeout, tell)
    except NoCredentials as error:
        raise NoEndpoint(str(error) if wanted.context else nothing_found(wanted.pipeline)) from None
    except ApiError as error:
        if error.status == 404:
            raise NoEndpoint("the current cluster does not know pipelines: install the operator's chart") from None
        raise NoEndpoint(f"the current cluster refuses: {error}") from None
    except Unreachable as error:
        raise NoEndpoint(f"{error}; check the kubeconfig, or: {HOW_TO}") from None
    scheme = "https" if ((found.get("spec") or {}).get("api") or {}).get("tls") else "http"
    proxy = cluster.service(namespace, name, "http", scheme)
    return Endpoint(proxy.url, f"{name} in namespace {namespace}", proxy.context, dict(proxy.headers), FORWARD)


def nothing_found(pipeline: str | None) -> str:
    here = ", ".join(run.pipeline for run in local_runs.running())
    if pipeline and here:
        return f"there is no pipeline {pipeline} on this machine; there are: {here}"
    return f"no pipeline was found: {HOW_TO}"


def names_in(cluster: "Cluster", namespace: str) -> list[str]:
    from omni_operator.kube.resources import PIPELINES

    return sorted(str(item["metadata"]["name"]) for item in cluster.list_objects(PIPELINES, namespace))


def only_one(cluster: "Cluster", namespace: str) -> str:
    names = names_in(cluster, namespace)
    if not names:
        raise NoEndpoint(f"namespace {namespace} has no pipeline: {HOW_TO}")
    if len(names) > 1:
        raise NoEndpoint(f"namespace {namespace} has several pipelines ({', '.join(names)}); choose with --pipeline")
    return names[0]


def wait_until_it_serves(
    cluster: "Cluster", namespace: str, name: str, timeout: float, tell: Callable[[str], None]
) -> Object:
    """The pipeline, when its head serves, that is when every stage has a replica. `tell` hears why it does not yet."""
    from omni_operator.kube.resources import PIPELINES

    deadline, told = time.monotonic() + timeout, ""
    while True:
        found = cluster.get(PIPELINES, namespace, name)
        if found is None:
            there = ", ".join(names_in(cluster, namespace)) or "none"
            raise NoEndpoint(f"there is no pipeline {name} in namespace {namespace}; there are: {there}")
        conditions = {c["type"]: c for c in (found.get("status") or {}).get("conditions") or []}
        accepted, ready = conditions.get("Accepted", {}), conditions.get("Ready", {})
        if conditions.get("HeadReady", {}).get("status") == "True":
            return found
        if accepted.get("status") == "False":
            raise NoEndpoint(f"pipeline {name} is not accepted: {accepted.get('message')}")
        message = ready.get("message") or "the operator has not seen it yet"
        if time.monotonic() > deadline:
            late = f"did not serve within {timeout:g} s" if timeout else "does not serve"
            raise NoEndpoint(f"pipeline {name} {late}: {message}")
        if message != told:
            tell(f"waiting for pipeline {name}: {message}")
            told = message
        time.sleep(POLL_SECONDS)
