"""The API server's verbs over plain dictionaries: get, list, watch, apply, create, replace, merge, delete.

Every call blocks, so an event loop must use threads. Calls that can safely be repeated are retried a few times.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.kube.configuration import load_configuration
from omni_operator.kube.connection import Connection, json_lines
from omni_operator.kube.errors import ApiError, NotLeading, Unreachable
from omni_operator.kube.resources import (
    ADD_ONS,
    CHILDREN,
    CLAIM_TEMPLATES,
    DISRUPTION_BUDGETS,
    LEASES,
    PIPELINES,
    SECURITY_CONTEXT_CONSTRAINTS,
    Resource,
)
from omni_operator.kube.service_proxy import ServiceProxy, proxy_path

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
WATCH_SECONDS = 45
"""Time after which the server ends a watch, with a bookmark."""
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 10.0
"""Silence after which a watch counts as broken. So a dead connection is noticed within a minute."""
PAGE_SIZE = 100
"""Objects per page of a list. Parsed objects take ten times the memory of what the cache keeps of them."""


class Cluster:
    """One API server. Thread-safe. `is_inside`: this process runs in one of its pods.

    `may_write` is asked, with the namespace, before every write except those of Leases and Events; if it returns False,
    the write raises NotLeading. All verbs raise ApiError or Unreachable.
    """

    def __init__(self, context: str | None = None, connections: int = 32, kubeconfig: str | None = None) -> None:
        """`context` names a context of the kubeconfig. Without `context` and `kubeconfig`: this pod's own cluster, or
        that of the current context. Raises NoCredentials, BrokenKubeconfig."""
        configuration, self.is_inside = load_configuration(context, kubeconfig)
        self.may_write: Callable[[str], bool] = lambda namespace: True
        self.connection = Connection(configuration, connections)

    # ---- what the server has

    @cached_property
    def child_resources(self) -> Mapping[str, Resource]:
        """The resource for each kind of child, without the kinds that this API server does not have.

        A minor kind of which the server does not say whether it has it is included; its watch finds out.
        """
        budgets = next(filter(self.serves, DISRUPTION_BUDGETS), None)
        claim_templates = CLAIM_TEMPLATES if self.serves(CLAIM_TEMPLATES) else None
        optional = [budgets, claim_templates, *filter(self._may_serve, ADD_ONS)]
        return CHILDREN | {resource.kind: resource for resource in optional if resource}

    @cached_property
    def version(self) -> Mapping[str, str]:
        """The API server's version: `major`, `minor` and more."""
        return self.connection.send_json("GET", "/version")

    @cached_property
    def assigns_ids(self) -> bool:
        """Whether the cluster gives each namespace user and group ids of its own, and rejects others: OpenShift."""
        try:
            return self.serves(SECURITY_CONTEXT_CONSTRAINTS)
        except ApiError:
            return False

    def serves(self, resource: Resource) -> bool:
        """Whether the API server has that kind in that version."""
        try:
            found = self.connection.send_json("GET", f"/apis/{resource.group}/{resource.version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(one.get("name") == resource.plural for one in found.get("resources") or [])

    def _may_serve(self, resource: Resource) -> bool:
        try:
            return self.serves(resource)
        except ApiError:
            return True

    # ---- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object; None if it does not exist."""
        try:
            return self._send_object("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list_objects(
        self, resource: Resource, namespace: str | None, selector: str = "", fields: str = ""
    ) -> list[Object]:
        return [item for items, _ in self.pages(resource, namespace, selector, fields) for item in items]

    def pages(
        self, resource: Resource, namespace: str | None, selector: str = "", fields: str = ""
    ) -> Iterator[tuple[list[Object], str]]:
        """All objects, page by page, so that they need not be in memory together. Each page comes with the resource
        version of the list, from which a watch can start. `selector`: of labels; `fields`: of fields."""
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(PAGE_SIZE)}
        path = resource.path(namespace)
        while True:
            page = self._send_object("GET", path, query)
            # The items of a list carry no kind and no API version.
            items: list[Object] = [
                {"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in items_of(page, path)
            ]
            yield items, page["metadata"].get("resourceVersion", "")
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, fields: str = ""
    ) -> Iterator[Object]:
        """The watch events after a resource version, until the server or the connection ends the stream.

        The request has been accepted when this returns.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "labelSelector": selector,
            "fieldSelector": fields,
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
            return self._send_object("PATCH", path, query, child, APPLY)
        except ApiError as error:
            if error.status == 403 and str(error).endswith("forbidden: "):
                # Kubernetes 1.20 ends the message here if the object does not exist yet.
                raise ApiError(403, error.reason, f'{error}cannot create resource "{resource.plural}"') from error
            raise

    def apply_new(self, resource: Resource, child: Mapping[str, Any]) -> Object:
        """Server-side apply that only creates. Raises ApiError with status 409 if the object exists.

        Also raises it, with `cannot_only_create`, for a Service on Kubernetes before 1.23.
        """
        # No object has this version, so the server creates the object or finds a conflict.
        return self.apply(resource, {**child, "metadata": {**child["metadata"], "resourceVersion": "1"}}, force=False)

    def create(self, resource: Resource, content: Mapping[str, Any], is_dry_run: bool = False) -> Object:
        """Create an object. Raises ApiError with status 409 if it exists.

        A dry run does everything except storing the object.
        """
        namespace = content["metadata"]["namespace"]
        if resource != LEASES:  # which decides who leads
            self._require_leading(namespace)
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All" if is_dry_run else ""}
        return self._send_object("POST", resource.path(namespace), query, content, attempts=1)

    def replace(self, resource: Resource, content: Mapping[str, Any]) -> Object:
        """Replace an object. Raises ApiError with status 409 if it changed since `content` was read."""
        metadata = content["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return self._send_object("PUT", path, body=content, attempts=1)

    def merge(self, resource: Resource, namespace: str, name: str, change: Mapping[str, Any]) -> Object:
        """Change some fields of an object."""
        self._require_leading(namespace)
        path = resource.path(namespace, name)
        return self._send_object("PATCH", path, {"fieldManager": FIELD_MANAGER}, change, MERGE)

    def write_status(self, pipeline: Mapping[str, Any], status: Mapping[str, Any]) -> Object:
        """Write a pipeline's status. Returns the pipeline as it is afterwards."""
        metadata = pipeline["metadata"]
        self._require_leading(metadata["namespace"])
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        path = PIPELINES.path(metadata["namespace"], metadata["name"], "status")
        return self._send_object("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, MERGE)

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
        connection = self.connection
        url = f"{connection.url}{proxy_path(namespace, service, port, scheme)}"
        return ServiceProxy(url, connection.tls_context(), connection.credentials(), connection.proxy)

    def get_from_service(
        self, namespace: str, service: str, port: str, scheme: str, path: str, seconds: float, max_bytes: int
    ) -> bytes:
        """The body that a Service answers a GET with, through the API server; see `Connection.get_bounded`."""
        return self.connection.get_bounded(proxy_path(namespace, service, port, scheme) + path, seconds, max_bytes)

    def _send_object(self, method: str, path: str, *request: Any, **more: Any) -> Object:
        """The object or the list that a call is answered with. Raises ApiError, Unreachable."""
        found = self.connection.send_json(method, path, *request, **more)
        if not isinstance(found.get("metadata"), dict):
            raise Unreachable(f"{method} {path} was answered with JSON that is not an object of Kubernetes")
        return found

    def _require_leading(self, namespace: str) -> None:
        if not self.may_write(namespace):
            raise NotLeading("another operator acts")


def items_of(found: Object, path: str) -> list[Object]:
    """The items of a list. Raises Unreachable if it has none: an empty list would mean that everything was deleted."""
    if "items" not in found or not isinstance(found["items"], list | None):
        raise Unreachable(f"GET {path} was answered with something that is not a list")
    return found["items"] or []
