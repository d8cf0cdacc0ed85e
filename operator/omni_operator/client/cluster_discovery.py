"""Finds the API of a pipeline in the current cluster, and reaches it through the API server's proxy."""

import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from omni_operator.client import local_runs
from omni_operator.client.endpoint import Endpoint, EndpointNotFound, PipelineSelector
from omni_operator.crd.objects import Object
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, BrokenKubeconfig, NoCredentials, Unreachable
from omni_operator.kube.kubeconfig import current_namespace
from omni_operator.kube.resources import PIPELINES

POLL_SECONDS = 1.0
# The API server consumes the Authorization header itself, so a key cannot pass through it.
UNAUTHORIZED_HINT = (
    "through the API server no key can be shown: forward the Service's port, give --url, and set OMNI_API_KEY"
)
HOW_TO_SELECT = (
    "give --url, set OMNI_URL, run `omni up FILE` on this machine, or apply a pipeline to the current cluster"
)


def find_endpoint(selector: PipelineSelector, timeout: float, report_wait: Callable[[str], None]) -> Endpoint:
    """The API of the selected pipeline, once that serves. Raises EndpointNotFound."""
    try:
        cluster = Cluster(selector.context)
        namespace = selector.namespace or current_namespace(selector.context)
        name = selector.pipeline or _only_pipeline(cluster, namespace)
        pipeline = _wait_until_serving(cluster, namespace, name, timeout, report_wait)
    except NoCredentials:
        raise EndpointNotFound(_nothing_found(selector.pipeline)) from None
    except BrokenKubeconfig as error:
        raise EndpointNotFound(str(error)) from None
    except ApiError as error:
        if error.status == 404:
            raise EndpointNotFound(
                "the current cluster does not know pipelines: install the operator's chart"
            ) from None
        raise EndpointNotFound(f"the current cluster refuses: {error}") from None
    except Unreachable as error:
        raise EndpointNotFound(f"{error}; check the kubeconfig, or: {HOW_TO_SELECT}") from None
    scheme = "https" if ((pipeline.get("spec") or {}).get("api") or {}).get("tls") else "http"
    proxy = cluster.service(namespace, name, "http", scheme)
    description = f"{name} in namespace {namespace}"
    return Endpoint(proxy.url, description, proxy.context, dict(proxy.headers), proxy.proxy, UNAUTHORIZED_HINT)


def _nothing_found(pipeline: str | None) -> str:
    """The message if there is neither a local pipeline of this name nor a cluster."""
    local = [run.pipeline for run in local_runs.live_runs()]
    if pipeline and local:
        return no_such_pipeline(pipeline, "on this machine", local)
    return f"no pipeline was found: {HOW_TO_SELECT}"


def no_such_pipeline(name: str, where: str, existing: Sequence[str]) -> str:
    """The message for a name that no pipeline has, with the most similar name that one has."""
    similar = get_close_matches(name, existing, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"there are: {', '.join(existing) or 'none'}"
    return f"there is no pipeline {name} {where}; {hint}"


def _pipeline_names(cluster: Cluster, namespace: str) -> list[str]:
    return sorted(str(pipeline["metadata"]["name"]) for pipeline in cluster.list_objects(PIPELINES, namespace))


def _only_pipeline(cluster: Cluster, namespace: str) -> str:
    """The name of the only pipeline in a namespace. Raises EndpointNotFound if there are none or several."""
    names = _pipeline_names(cluster, namespace)
    if not names:
        raise EndpointNotFound(f"namespace {namespace} has no pipeline: {HOW_TO_SELECT}")
    if len(names) > 1:
        raise EndpointNotFound(
            f"namespace {namespace} has several pipelines ({', '.join(names)}); choose one by its name"
        )
    return names[0]


def _wait_until_serving(
    cluster: Cluster, namespace: str, name: str, timeout: float, report_wait: Callable[[str], None]
) -> Object:
    """The pipeline object, once its head serves. A head serves when every stage has a replica or can be woken.

    Raises EndpointNotFound if there is no such pipeline, if the operator rejects it, or after `timeout` seconds.
    """
    deadline, reported = time.monotonic() + timeout, ""
    while True:
        pipeline = cluster.get(PIPELINES, namespace, name)
        if pipeline is None:
            names = _pipeline_names(cluster, namespace)
            raise EndpointNotFound(no_such_pipeline(name, f"in namespace {namespace}", names))
        conditions = {c["type"]: c for c in (pipeline.get("status") or {}).get("conditions") or []}
        accepted, ready = conditions.get("Accepted", {}), conditions.get("Ready", {})
        if conditions.get("HeadReady", {}).get("status") == "True":
            return pipeline
        if accepted.get("status") == "False":
            raise EndpointNotFound(f"pipeline {name} is not accepted: {accepted.get('message')}")
        message = ready.get("message") or "the operator has not seen it yet"
        if time.monotonic() > deadline:
            late = f"did not serve within {timeout:g} s" if timeout else "does not serve"
            raise EndpointNotFound(f"pipeline {name} {late}: {message}")
        if message != reported:
            report_wait(f"waiting for pipeline {name}: {message}")
            reported = message
        time.sleep(POLL_SECONDS)
