"""The only module that talks to the API server: a few verbs over plain dictionaries, and watches.

It takes credentials, TLS and connections from the official client, which is imported late because it is most of the
process's memory, and leaves its generated types alone. Every call blocks: the event loop must call through threads.
"""

import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from omni_operator.spec import GROUP, KIND, PLURAL, VERSION

logger = logging.getLogger(__name__)

FIELD_MANAGER = "omni-operator"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
REQUEST_SECONDS = 30.0
WATCH_SECONDS = 300
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 30.0
PAGE = 500
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Object = dict[str, Any]


class Resource(NamedTuple):
    """A kind of object, and where the API server keeps it."""

    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}".removeprefix("/")

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{namespace}" if namespace else ""
        return root + where + "".join(f"/{part}" for part in (self.plural, name, subresource) if part)


PIPELINES = Resource(KIND, GROUP, VERSION, PLURAL)
DEFINITIONS = Resource("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions")
PODS = Resource("Pod", "", "v1", "pods")
# Known by name only: what may list Secrets may read them all.
SECRETS = Resource("Secret", "", "v1", "secrets")
EVENTS = Resource("Event", "", "v1", "events")
LEASES = Resource("Lease", "coordination.k8s.io", "v1", "leases")
CHILDREN = {
    resource.kind: resource
    for resource in (
        Resource("ServiceAccount", "", "v1", "serviceaccounts"),
        Resource("ConfigMap", "", "v1", "configmaps"),
        Resource("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims"),
        Resource("Service", "", "v1", "services"),
        Resource("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
        Resource("Deployment", "apps", "v1", "deployments"),
        Resource("Job", "batch", "v1", "jobs"),
    )
}
# Which of these there is, newest first, depends on the cluster: v1 came with Kubernetes 1.21, v1beta1 went with 1.25.
BUDGETS = tuple(
    Resource("PodDisruptionBudget", "policy", version, "poddisruptionbudgets") for version in ("v1", "v1beta1")
)


class ServiceProxy(NamedTuple):
    """Where a Service is, and what a request to it needs."""

    url: str
    context: ssl.SSLContext
    headers: Mapping[str, str]


class ApiError(Exception):
    """The API server refused a request; its text is the server's own message."""

    exit_code = 1

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    @property
    def is_passing(self) -> bool:
        """Whether the server had only no time for it."""
        return self.status >= 500 or self.status == 429


class Unreachable(Exception):
    """The API server did not answer."""

    exit_code = 1


class NotLeading(Exception):
    """Another operator acts, and this one must not write."""


class NoCredentials(Exception):
    """There is neither a kubeconfig nor a service account."""

    exit_code = 1


@dataclass
class WatchHealth:
    """When a watch last heard from the server, on the monotonic clock."""

    last_heard: float


class Cluster:
    """A connection to one API server, usable from many threads. `is_inside`: whether this is one of its pods.

    `may_write` is asked, with the namespace, before every write but those of Leases and Events; `heard` is told the
    method and the status of every call, 0 where there was no answer.
    """

    def __init__(self, context: str | None = None, connections: int = 32) -> None:
        """`context` is one of the kubeconfig; without it, this pod's own cluster, or that of the current context."""
        from kubernetes import client, config  # late: see the top

        configuration = client.Configuration()
        is_inside = context is None
        try:
            if is_inside:
                config.load_incluster_config(configuration)
        except config.ConfigException:
            is_inside = False
        if not is_inside:
            require_context(context)
            try:
                config.load_kube_config(context=context, client_configuration=configuration)
            except config.ConfigException as error:
                raise NoCredentials(
                    f"no cluster to talk to: set KUBECONFIG to a kubeconfig file, or run in a pod ({error})"
                ) from None
        configuration.connection_pool_maxsize = connections
        self.is_inside = is_inside
        self.may_write: Callable[[str], bool] = lambda namespace: True
        self.heard: Callable[[str, int], None] = lambda verb, code: None
        self._configuration = configuration
        self._pool = client.ApiClient(configuration).rest_client.pool_manager

    @cached_property
    def children(self) -> Mapping[str, Resource]:
        """Where this API server keeps each kind of child; without those that it does not have."""
        budgets = next(filter(self.serves, BUDGETS), None)
        return {**CHILDREN, budgets.kind: budgets} if budgets else CHILDREN

    def serves(self, resource: Resource) -> bool:
        """Whether the API server has that kind in that version."""
        try:
            found = self._json("GET", f"/apis/{resource.group}/{resource.version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(one["name"] == resource.plural for one in found["resources"])

    # ---- verbs

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        try:
            found: Object = self._json("GET", resource.path(namespace, name))
            return found
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list_objects(self, resource: Resource, namespace: str | None, selector: str = "") -> tuple[list[Object], str]:
        """Every object, page by page, and the version from which to watch."""
        items: list[Object] = []
        query = {"labelSelector": selector, "limit": str(PAGE)}
        while True:
            page = self._json("GET", resource.path(namespace), query)
            # The items of a list do not say what they are.
            items += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]
            token = page["metadata"].get("continue")
            if not token:
                return items, page["metadata"].get("resourceVersion", "")
            query["continue"] = token

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool, manager: str = FIELD_MANAGER) -> Object:
        """Server-side apply. Without `force`, a field that someone else manages is an ApiError with status 409."""
        metadata = child["metadata"]
        self._require_leading(metadata.get("namespace", ""))
        query = {"fieldManager": manager, "force": str(force).lower()}
        path = resource.path(metadata.get("namespace"), metadata["name"])
        applied: Object = self._json("PATCH", path, query, child, APPLY)
        return applied

    def delete(self, resource: Resource, child: Mapping[str, Any]) -> None:
        """Delete this very object, not one that has taken its name since."""
        metadata = child["metadata"]
        self._require_leading(metadata["namespace"])
        body = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            self._json("DELETE", resource.path(metadata["namespace"], metadata["name"]), body=body)
        except ApiError as error:
            if error.status != 404:
                raise

    def create(self, resource: Resource, content: Mapping[str, Any]) -> Object:
        """Make an object; one that is there already is an ApiError with status 409."""
        created: Object = self._json("POST", resource.path(content["metadata"]["namespace"]), body=content)
        return created

    def replace(self, resource: Resource, content: Mapping[str, Any]) -> Object:
        """Write an object whole. One that was written since this version of it was read is an ApiError, status 409."""
        metadata = content["metadata"]
        replaced: Object = self._json("PUT", resource.path(metadata["namespace"], metadata["name"]), body=content)
        return replaced

    def write_status(self, pipeline: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        metadata = pipeline["metadata"]
        self._require_leading(metadata["namespace"])
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        path = PIPELINES.path(metadata["namespace"], metadata["name"], "status")
        self._json("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, MERGE)

    def service(self, namespace: str, service: str, port: str, scheme: str = "http") -> "ServiceProxy":
        """The way to a Service through the API server, for an HTTP client of its own; `scheme` is the Service's."""
        configuration = self._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        path = proxy_path(namespace, service, port, scheme)
        return ServiceProxy(f"{configuration.host}{path}", context, self._credentials())

    def ask_service(
        self, namespace: str, service: str, port: str, path: str, seconds: float, scheme: str = "http"
    ) -> Any:
        """The JSON that a Service answers to a GET, through the API server."""
        proxy = proxy_path(namespace, service, port, scheme)
        return json.loads(self._request("GET", f"{proxy}{path}", {}, None, "", seconds).data)

    # ---- watching

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, hear: Callable[[Object], None]
    ) -> WatchHealth:
        """Call `hear` with every object that is there, appears, changes or goes, from a thread of its own, for ever."""
        health = WatchHealth(time.monotonic())
        arguments = (resource, namespace, selector, hear, health)
        threading.Thread(target=self._watch, args=arguments, name=f"watch-{resource.plural}", daemon=True).start()
        return health

    def _watch(
        self,
        resource: Resource,
        namespace: str | None,
        selector: str,
        hear: Callable[[Object], None],
        health: WatchHealth,
    ) -> None:
        failures = 0
        while True:
            try:
                items, version = self.list_objects(resource, namespace, selector)
                failures, health.last_heard = 0, time.monotonic()
                for item in items:
                    hear(item)
                self._follow(resource, namespace, selector, version, hear, health)
            # The last two: an answer that is not what a watch should say.
            except (ApiError, Unreachable, ValueError, KeyError) as error:
                failures += 1
                delay = min(30.0, 0.2 * 2.0 ** min(failures, 10)) * random.uniform(0.8, 1.2)
                logger.warning("watch of %s: %s; again in %.1f s", resource.plural, error, delay)
                time.sleep(delay)

    def _follow(
        self,
        resource: Resource,
        namespace: str | None,
        selector: str,
        version: str,
        hear: Callable[[Object], None],
        health: WatchHealth,
    ) -> None:
        """Hear changes since a version; returns when the server no longer knows it."""
        while True:
            query = {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
                "labelSelector": selector,
                "resourceVersion": version,
            }
            for event in self._lines(resource.path(namespace), query):
                health.last_heard = time.monotonic()
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        return
                    raise error_of(event["object"])
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    hear(event["object"])
            health.last_heard = time.monotonic()

    # ---- transport

    def _require_leading(self, namespace: str) -> None:
        if not self.may_write(namespace):
            raise NotLeading("another operator acts")

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        response = self._request(method, path, query or {}, body, content_type, REQUEST_SECONDS)
        return json.loads(response.data)

    def _lines(self, path: str, query: Mapping[str, str]) -> Iterator[Any]:
        from urllib3.exceptions import HTTPError

        response = self._request("GET", path, query, None, "", WATCH_SILENCE_SECONDS, stream=True)
        rest = b""
        try:
            for chunk in response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())
        except HTTPError as error:
            raise Unreachable(f"the watch of {path} broke: {error}") from error
        finally:
            response.release_conn()
            response.close()

    def _credentials(self) -> dict[str, str]:
        return {setting["key"]: setting["value"] for setting in self._configuration.auth_settings().values()}

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str,
        timeout: float,
        stream: bool = False,
    ) -> Any:
        from urllib3.exceptions import HTTPError

        parameters = urlencode({key: value for key, value in query.items() if value})
        url = f"{self._configuration.host}{path}" + (f"?{parameters}" if parameters else "")
        headers = {"Accept": "application/json", "User-Agent": "omni-operator"}
        headers |= self._credentials()
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=timeout,
                retries=False,
                preload_content=not stream,
            )
        except HTTPError as error:
            self.heard(method, 0)
            raise Unreachable(f"the API server at {self._configuration.host} does not answer: {error}") from error
        self.heard(method, response.status)
        if response.status >= 400:
            content = response.data
            try:
                raise error_of(json.loads(content))
            except ValueError:
                raise ApiError(response.status, response.reason, content.decode(errors="replace")[:500]) from None
        return response


def proxy_path(namespace: str, service: str, port: str, scheme: str) -> str:
    """Where the API server passes requests on to a Service. It does not check that one's certificate."""
    named = f"https:{service}" if scheme == "https" else service
    return f"/api/v1/namespaces/{namespace}/services/{named}:{port}/proxy"


def current_namespace(context: str | None = None) -> str:
    """The namespace of a context of the kubeconfig; without one, that of this pod, or of the current context."""
    if context is None and OWN_NAMESPACE.exists():
        return OWN_NAMESPACE.read_text().strip()
    named, current = contexts()
    found = current if context is None else named.get(context, {})
    return str(found.get("context", {}).get("namespace") or "default")


def require_context(name: str | None) -> None:
    """Raise NoCredentials for a context that the kubeconfig has not."""
    if name is not None and name not in (named := contexts()[0]):
        there = ", ".join(sorted(named)) or "none"
        raise NoCredentials(f"--context {name}: the kubeconfig has no context of this name; it has: {there}")


def contexts() -> tuple[Mapping[str, Object], Object]:
    """The contexts of the kubeconfig by name, and the current one; nothing where there is no kubeconfig."""
    from kubernetes import config  # late: see the top

    try:
        named, current = config.list_kube_config_contexts()
    except config.ConfigException:
        return {}, {}
    return {each["name"]: each for each in named}, current or {}


def error_of(status: Mapping[str, Any]) -> ApiError:
    """The error that a Status object of the API server tells of."""
    return ApiError(
        int(status.get("code") or 0), status.get("reason") or "Unknown", status.get("message") or "no message"
    )
