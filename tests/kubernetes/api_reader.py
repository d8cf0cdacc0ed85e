"""Reads and changes objects as `kubectl get -o json`, `patch` and `delete` do, over connections that stay open.

A test that waits looks several times a second, and a process for each look would keep a core busy.
"""

import contextlib
import functools
from typing import Any, NamedTuple

from omni_operator.kube.client import MERGE
from omni_operator.kube.connection import Connection
from omni_operator.kube.errors import ApiError
from omni_operator.kube.kubeconfig import load_configuration

CONNECTIONS = 4


class NotFound(AssertionError):
    """The API server has no such object."""


class Resource(NamedTuple):
    """A kind of objects, and where the API server has them: `/api/v1` or `/apis/GROUP/VERSION`."""

    kind: str
    plural: str
    api_version: str
    root: str
    is_namespaced: bool

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The path of an object, or of the list. Without a namespace: the list of all namespaces."""
        scope = ["namespaces", namespace] if self.is_namespaced and namespace else []
        return "/".join([self.root, *scope, *filter(None, [self.plural, name, subresource])])


class ApiReader:
    """The objects of one API server. Kinds have the names that kubectl knows: plural, singular, short, any case.

    Like kubectl in a test, every method fails with an AssertionError that has the API server's reason.
    """

    def __init__(self, kubeconfig: str) -> None:
        self._connection = Connection(load_configuration(kubeconfig=kubeconfig)[0], CONNECTIONS)
        self._resources: dict[str, Resource] = {}

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return without_managed_fields(self._call("GET", self._resource(kind).path(namespace, name)))

    def items(self, kinds: str, namespace: str | None, selector: str = "") -> list[dict[str, Any]]:
        """All objects of these kinds, which commas separate. Each has its kind and API version, as kubectl shows it."""
        found: list[dict[str, Any]] = []
        for kind in map(self._resource, kinds.split(",")):
            answer = self._call("GET", kind.path(namespace), labelSelector=selector)
            named = ({"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer["items"])
            found += map(without_managed_fields, named)
        return found

    def exists(self, kind: str, namespace: str, name: str) -> bool:
        try:
            self.get(kind, namespace, name)
        except NotFound:
            return False
        return True

    def patch(self, kind: str, namespace: str, name: str, change: dict[str, Any], subresource: str = "") -> None:
        """Change an object with a JSON merge patch, if it still exists."""
        with contextlib.suppress(NotFound):
            self._call("PATCH", self._resource(kind).path(namespace, name, subresource), body=change)

    def delete_at_once(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object without a grace period, if it still exists."""
        with contextlib.suppress(NotFound):
            self._call("DELETE", self._resource(kind).path(namespace, name), gracePeriodSeconds="0")

    def _resource(self, kind: str) -> Resource:
        if kind.lower() not in self._resources:  # not asked for yet, or defined since
            self._resources = self._discover()
        assert kind.lower() in self._resources, f"the API server has no kind {kind!r}"
        return self._resources[kind.lower()]

    def _discover(self) -> dict[str, Resource]:
        groups = self._call("GET", "/apis")["groups"]
        versions = ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]
        found: dict[str, Resource] = {}
        for version in versions:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for one in self._call("GET", root)["resources"]:
                if "/" in one["name"]:
                    continue
                resource = Resource(one["kind"], one["name"], version, root, one["namespaced"])
                group = version.rpartition("/")[0]
                for name in (one["name"], one["singularName"], one["kind"].lower(), *one.get("shortNames", ())):
                    found.setdefault(name, resource)
                found.setdefault(f"{one['name']}.{group}", resource)
        return found

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._connection.send_json(method, path, query, body, MERGE)
        except ApiError as error:
            failure = NotFound if error.status == 404 else AssertionError
            raise failure(f"{method} {path}: {error}") from None
        return answer


def without_managed_fields(item: dict[str, Any]) -> dict[str, Any]:
    item["metadata"].pop("managedFields", None)
    return item


@functools.cache
def api_reader(kubeconfig: str) -> ApiReader:
    """The reader of that cluster, shared by all tests of this process."""
    return ApiReader(kubeconfig)
