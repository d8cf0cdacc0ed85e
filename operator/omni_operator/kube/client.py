"""The API server's verbs over plain dictionaries: get, list, watch, apply, create, replace, merge, delete.

Every call blocks, so an event loop must use threads. Calls that can safely be repeated are retried a few times.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.kube.connection import Connection, json_lines
from omni_operator.kube.errors import ApiError, NotLeading
from omni_operator.kube.kubeconfig import load_configuration
from omni_operator.kube.resources import CHILDREN, DISRUPTION_BUDGETS, PIPELINES, POD_MONITORS, Resource
from omni_operator.kube.service_proxy import ServiceProxy, proxy_path

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
WATCH_SECONDS = 300
"""Time after which the server ends a watch."""
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 30.0
PAGE_SIZE = 100
"""Objects per page of a list. Parsed objects take ten times the memory of what the cache keeps of them."""


class Cluster:
    """One API server. Thread-safe. `is_inside`: this process runs in one of its pods.

    `may_write` is asked, with the namespace, before every write except those of Leases and Events; if it returns False,
    the write raises NotLeading. All verbs raise ApiError or Unreachable.
    """

    def __init__(self, context: str | None = None, connections: int = 32, kubeconfig: str | None = None) -> None:
        """`context` names a context of the kubeconfig. Without `context` and `kubeconfig`: this pod's own cluster, or
        that of the current context. Raises NoCredentials."""
        configuration, self.is_inside = load_configuration(context, kubeconfig)
        self.may_write: Callable[[str], bool] = lambda namespace: True
        self.connection = Connection(configuration, connections)

    # ---- what the server has

    @cached_property
    def child_resources(self) -> Mapping[str, Resource]:
        """The resource for each kind of child, without the kinds that this API server does not have."""
        budgets = next(filter(self.serves, DISRUPTION_BUDGETS), None)
        optional = [budgets, POD_MONITORS if self.serves(POD_MONITORS) else None]
        return CHILDREN | {resource.kind: resource for resource in optional if resource}

    @cached_property
    def version(self) -> Mapping[str, str]:
        """The API server's version: `major`, `minor` and more."""
        version: Mapping[str, str] = self.connection.send_json("GET", "/version")
        return version

    def serves(self, resource: Resource) -> bool:
        """Whether the API server has that kind in that version."""
        try:
            found = self.connection.send_json("GET", f"/apis/{resource.group}/{resource.version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(one["name"] == resource.plural for one in found["resources"])

    # ---- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object; None if it does not exist."""
        try:
            found: Object = self.connection.send_json("GET", resource.path(namespace, name))
            return found
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list_objects(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Object]:
        return [item for items, _ in self.pages(resource, namespace, selector) for item in items]

    def list_by_name(self, resource: Resource, name: str) -> list[Object]:
        """The objects of one name in all namespaces."""
        found = self.connection.send_json("GET", resource.path(None), {"fieldSelector": f"metadata.name={name}"})
        return list(found["items"])

    def pages(
        self, resource: Resource, namespace: str | None, selector: str = ""
    ) -> Iterator[tuple[list[Object], str]]:
        """All objects, page by page, so that they need not be in memory together. Each page comes with the resource
        version of the list, from which a watch can start."""
        query = {"labelSelector": selector, "limit": str(PAGE_SIZE)}
        while True:
            page = self.connection.send_json("GET", resource.path(namespace), query)
            # The items of a list carry no kind and no API version.
            items: list[Object] = [
                {"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]
            ]
            yield items, page["metadata"].get("resourceVersion", "")
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def watch(self, resource: Resource, namespace: str | None, selector: str, version: str) -> Iterator[Object]:
        """The watch events after a resource version, until the server or the connection ends the stream.

        The request has been accepted when this returns.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "labelSelector": selector,
            "resourceVersion": version,
        }
        path = resource.path(namespace)
        return json_lines(path, self.connection.send("GET", path, query, timeout=WATCH_SILENCE_SECONDS, stream=True))

    def get_text(self, path: str) -> str:
        """The body that the API server returns for one of its own paths, such as /metrics."""
        return str(self.connection.send("GET", path).data.decode())

    # ---- writing

    def apply(
        self,
        resource: Resource,
        child: Mapping[str, Any],
        force: bool,
        manager: str = FIELD_MANAGER,
        is_dry_run: bool = False,
    ) -> Object:
        """Server-side apply. Without `force`, a field that another manager owns raises ApiError with status 409.

        A dry run does everything except storing the object.
        """
        metadata = child["metadata"]
        self._require_leading(metadata.get("namespace", ""))
        query = {"fieldManager": manager, "force": str(force).lower(), "dryRun": "All" if is_dry_run else ""}
        path = resource.path(metadata.get("namespace"), metadata["name"])
        try:
            applied: Object = self.connection.send_json("PATCH", path, query, child, APPLY)
        except ApiError as error:
            if error.status == 403 and str(error).endswith("forbidden: "):
                # Kubernetes 1.20 ends the message here if the object does not exist yet.
                raise ApiError(403, error.reason, f'{error}cannot create resource "{resource.plural}"') from error
            raise
        return applied

    def create(self, resource: Resource, content: Mapping[str, Any]) -> Object:
        """Create an object. Raises ApiError with status 409 if it exists."""
        path = resource.path(content["metadata"]["namespace"])
        created: Object = self.connection.send_json("POST", path, body=content, attempts=1)
        return created

    def replace(self, resource: Resource, content: Mapping[str, Any]) -> Object:
        """Replace an object. Raises ApiError with status 409 if it changed since `content` was read."""
        metadata = content["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        replaced: Object = self.connection.send_json("PUT", path, body=content, attempts=1)
        return replaced

    def merge(self, resource: Resource, namespace: str, name: str, change: Mapping[str, Any]) -> Object:
        """Change some fields of an object."""
        self._require_leading(namespace)
        path = resource.path(namespace, name)
        merged: Object = self.connection.send_json("PATCH", path, {"fieldManager": FIELD_MANAGER}, change, MERGE)
        return merged

    def write_status(self, pipeline: Mapping[str, Any], status: Mapping[str, Any]) -> Object:
        """Write a pipeline's status. Returns the pipeline as it is afterwards."""
        metadata = pipeline["metadata"]
        self._require_leading(metadata["namespace"])
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        path = PIPELINES.path(metadata["namespace"], metadata["name"], "status")
        written: Object = self.connection.send_json("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, MERGE)
        return written

    def delete(self, resource: Resource, child: Mapping[str, Any]) -> None:
        """Delete the object with this uid; does nothing if it does not exist. Another object of its name stays."""
        metadata = child["metadata"]
        self._require_leading(metadata["namespace"])
        body = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            self.connection.send_json("DELETE", resource.path(metadata["namespace"], metadata["name"]), body=body)
        except ApiError as error:
            if error.status != 404:
                raise

    # ---- Services behind the API server

    def service(self, namespace: str, service: str, port: str, scheme: str = "http") -> ServiceProxy:
        """How an HTTP client reaches a Service through the API server. `scheme` is the Service's own."""
        url = f"{self.connection.url}{proxy_path(namespace, service, port, scheme)}"
        return ServiceProxy(url, self.connection.tls_context(), self.connection.credentials())

    def get_from_service(
        self, namespace: str, service: str, port: str, path: str, seconds: float, scheme: str = "http"
    ) -> Any:
        """GET the JSON at a path of a Service, through the API server.

        `seconds`: timeout for connecting, and for each read. Raises ValueError if the answer is not JSON.
        """
        proxy = proxy_path(namespace, service, port, scheme)
        return json.loads(self.connection.send("GET", f"{proxy}{path}", timeout=seconds).data)

    def _require_leading(self, namespace: str) -> None:
        if not self.may_write(namespace):
            raise NotLeading("another operator acts")
