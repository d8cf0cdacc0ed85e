"""The only module that talks to the API server: a few verbs over plain dictionaries, and watches.

It takes credentials, TLS and connections from the official client, which is imported late because it is most of the
process's memory, and leaves its generated types alone. Every call blocks: the event loop must call through threads.
A call that the server had no time for, or whose answer was lost, is made again a few times; all that are can be.
"""

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.crd.spec import GROUP, KIND, PLURAL, VERSION

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
REQUEST_SECONDS = 30.0
TRIES = 5
FIRST_WAIT_SECONDS = 0.1
MOST_WAIT_SECONDS = 5.0
"""What a call may wait for at a time; who is told to wait for longer does so elsewhere."""
WATCH_SECONDS = 300
WATCH_SILENCE_SECONDS = WATCH_SECONDS + 30.0
PAGE = 100  # of objects that are parsed at a time; what is parsed takes ten times what is kept
UNREADABLE = ("failed to create typed patch object", "failed to convert new object")
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


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

MONITORS = Resource("PodMonitor", "monitoring.coreos.com", "v1", "podmonitors")
MINOR = (MONITORS.kind,)
"""Kinds of children without which a pipeline serves as well."""


class ServiceProxy(NamedTuple):
    """Where a Service is, and what a request to it needs."""

    url: str
    context: ssl.SSLContext
    headers: Mapping[str, str]


class ApiError(Exception):
    """The API server refused a request; its text is the server's own message.

    `causes`: what the server says of single fields, as (field, reason, message); `retry_after`: the seconds for which
    it asks to be left alone.
    """

    exit_code = 1

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        causes: Sequence[tuple[str, str, str]] = (),
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.causes, self.retry_after = status, reason, tuple(causes), retry_after

    @property
    def is_passing(self) -> bool:
        """Whether the server had only no time for it."""
        return (self.status >= 500 or self.status == 429) and not self.is_unreadable

    @property
    def is_unreadable(self) -> bool:
        """Whether the server could not read what it was sent; old ones call that an error of their own."""
        return str(self).startswith(UNREADABLE)

    @property
    def is_race(self) -> bool:
        """Whether someone else wrote at the same time, so that another look is all it takes."""
        return self.status == 409 and not any(reason == "FieldManagerConflict" for _, reason, _ in self.causes)


class Unreachable(Exception):
    """The API server did not answer. `took_long`: only after a long wait was that known."""

    exit_code = 1

    def __init__(self, message: str, took_long: bool = False) -> None:
        super().__init__(message)
        self.took_long = took_long


class NotLeading(Exception):
    """Another operator acts, and this one must not write."""


class NoCredentials(Exception):
    """There is neither a kubeconfig nor a service account."""

    exit_code = 1


class Cluster:
    """A connection to one API server, usable from many threads. `is_inside`: whether this is one of its pods.

    `may_write` is asked, with the namespace, before every write but those of Leases and Events; `heard` is told the
    method and the status of every call, 0 where there was no answer.
    """

    def __init__(self, context: str | None = None, connections: int = 32, kubeconfig: str | None = None) -> None:
        """`context` is one of the kubeconfig; without both, this pod's own cluster, or that of the current context."""
        from kubernetes import client, config  # late: see the top

        configuration = client.Configuration()
        is_inside = context is None and kubeconfig is None
        try:
            if is_inside:
                config.load_incluster_config(configuration)
        except config.ConfigException:
            is_inside = False
        if not is_inside:
            require_context(context)
            try:
                config.load_kube_config(kubeconfig, context=context, client_configuration=configuration)
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
        optional = [budgets, MONITORS if self.serves(MONITORS) else None]
        return CHILDREN | {resource.kind: resource for resource in optional if resource}

    @cached_property
    def version(self) -> Mapping[str, str]:
        """What the API server says of its own version: major, minor and more."""
        found: Mapping[str, str] = self._json("GET", "/version")
        return found

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

    def list_objects(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Object]:
        return [item for items, _ in self.pages(resource, namespace, selector) for item in items]

    def list_named(self, resource: Resource, name: str) -> list[Object]:
        """The objects of one name in all namespaces."""
        found = self._json("GET", resource.path(None), {"fieldSelector": f"metadata.name={name}"})
        return list(found["items"])

    def pages(
        self, resource: Resource, namespace: str | None, selector: str = ""
    ) -> Iterator[tuple[list[Object], str]]:
        """Every object, page by page, so that they need not all be held at a time; and the version to follow from."""
        query = {"labelSelector": selector, "limit": str(PAGE)}
        while True:
            page = self._json("GET", resource.path(namespace), query)
            # The items of a list do not say what they are.
            items: list[Object] = [
                {"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]
            ]
            yield items, page["metadata"].get("resourceVersion", "")
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def apply(
        self,
        resource: Resource,
        child: Mapping[str, Any],
        force: bool,
        manager: str = FIELD_MANAGER,
        is_rehearsal: bool = False,
    ) -> Object:
        """Server-side apply. Without `force`, a field that someone else manages is an ApiError with status 409.

        A rehearsal is all that but the writing.
        """
        metadata = child["metadata"]
        self._require_leading(metadata.get("namespace", ""))
        query = {"fieldManager": manager, "force": str(force).lower(), "dryRun": "All" if is_rehearsal else ""}
        path = resource.path(metadata.get("namespace"), metadata["name"])
        try:
            applied: Object = self._json("PATCH", path, query, child, APPLY)
        except ApiError as error:
            if error.status == 403 and str(error).endswith("forbidden: "):
                # Kubernetes 1.20 leaves it at that where the object would be made.
                raise ApiError(403, error.reason, f'{error}cannot create resource "{resource.plural}"') from error
            raise
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
        created: Object = self._json("POST", resource.path(content["metadata"]["namespace"]), body=content, tries=1)
        return created

    def replace(self, resource: Resource, content: Mapping[str, Any]) -> Object:
        """Write an object whole. One that was written since this version of it was read is an ApiError, status 409."""
        metadata = content["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        replaced: Object = self._json("PUT", path, body=content, tries=1)
        return replaced

    def write_status(self, pipeline: Mapping[str, Any], status: Mapping[str, Any]) -> Object:
        metadata = pipeline["metadata"]
        self._require_leading(metadata["namespace"])
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        path = PIPELINES.path(metadata["namespace"], metadata["name"], "status")
        written: Object = self._json("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, MERGE)
        return written

    def merge(self, resource: Resource, namespace: str, name: str, change: Mapping[str, Any]) -> Object:
        """Change some fields of an object."""
        self._require_leading(namespace)
        path = resource.path(namespace, name)
        merged: Object = self._json("PATCH", path, {"fieldManager": FIELD_MANAGER}, change, MERGE)
        return merged

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

    def text(self, path: str) -> str:
        """What the API server answers to a GET of a path of its own, as it is."""
        return str(self._request("GET", path, {}, None, "", REQUEST_SECONDS).data.decode())

    def ask_service(
        self, namespace: str, service: str, port: str, path: str, seconds: float, scheme: str = "http"
    ) -> Any:
        """The JSON that a Service answers to a GET, through the API server."""
        proxy = proxy_path(namespace, service, port, scheme)
        return json.loads(self._request("GET", f"{proxy}{path}", {}, None, "", seconds).data)

    def follow(self, resource: Resource, namespace: str | None, selector: str, version: str) -> Iterator[Object]:
        """What happens after a version, as the server tells it, until it or the connection ends the stream.

        It has begun when this returns.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "labelSelector": selector,
            "resourceVersion": version,
        }
        path = resource.path(namespace)
        return lines_of(path, self._request("GET", path, query, None, "", WATCH_SILENCE_SECONDS, stream=True))

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
        tries: int = TRIES,
    ) -> Any:
        for attempt in range(1, tries + 1):
            try:
                response = self._request(method, path, query or {}, body, content_type, REQUEST_SECONDS)
                return json.loads(response.data)
            except (ApiError, Unreachable) as error:
                wait = patience(error, attempt)
                if attempt == tries or wait is None:
                    raise
                time.sleep(wait)

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
        from urllib3.exceptions import HTTPError, TimeoutError

        parameters = urlencode({key: value for key, value in query.items() if value})
        url = f"{self._configuration.host}{path}" + (f"?{parameters}" if parameters else "")
        headers = {"Accept": "application/json, */*", "User-Agent": "omni-operator"}
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
            message = f"the API server at {self._configuration.host} does not answer: {error}"
            raise Unreachable(message, isinstance(error, TimeoutError)) from error
        self.heard(method, response.status)
        if response.status >= 400:
            try:
                content = response.data
            except HTTPError as error:
                raise Unreachable(f"an answer of {self._configuration.host} broke off: {error}") from error
            raise refusal(response.status, response.reason, content, response.headers.get("Retry-After"))
        return response


def lines_of(path: str, response: Any) -> Iterator[Any]:
    """The lines of a watch, each of them JSON."""
    from urllib3.exceptions import HTTPError

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


def proxy_path(namespace: str, service: str, port: str, scheme: str) -> str:
    """Where the API server passes requests on to a Service. It does not check that one's certificate."""
    named = f"https:{service}" if scheme == "https" else service
    return f"/api/v1/namespaces/{namespace}/services/{named}:{port}/proxy"


def patience(error: ApiError | Unreachable, attempt: int) -> float | None:
    """Seconds after which a call may be made again; None where that is of no use, or too long to wait for."""
    usual = FIRST_WAIT_SECONDS * 2.0 ** (attempt - 1) * random.uniform(0.8, 1.2)
    if isinstance(error, Unreachable):
        return None if error.took_long else usual
    if not error.is_passing or error.retry_after > MOST_WAIT_SECONDS:
        return None
    return max(usual, error.retry_after)


def refusal(status: int, reason: str, content: bytes, retry_after: str | None) -> ApiError:
    """The error that an answer is."""
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
    try:
        error = error_of(json.loads(content))
        return ApiError(error.status or status, error.reason, str(error), error.causes, seconds)
    except (ValueError, AttributeError):
        return ApiError(status, reason, content.decode(errors="replace")[:500], (), seconds)


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
    details = (status.get("details") or {}).get("causes") or []
    causes = [(one.get("field") or "", one.get("reason") or "", one.get("message") or "") for one in details]
    return ApiError(
        int(status.get("code") or 0), status.get("reason") or "Unknown", status.get("message") or "no message", causes
    )
