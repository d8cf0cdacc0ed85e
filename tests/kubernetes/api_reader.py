"""Reads and changes objects as `kubectl get -o json`, `patch` and `delete` do, over connections that stay open.

A test that waits looks several times a second, and a process for each look would keep a core busy.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from omni_operator.kube.client import MERGE, Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import Resource


class ApiReader:
    """The objects of one API server. Kinds have the names that kubectl knows: plural, singular, short, any case.

    Objects look as kubectl shows them, without managed fields. Raises ApiError, Unreachable.
    """

    def __init__(self, kubeconfig: str) -> None:
        self._cluster = Cluster(kubeconfig=kubeconfig)
        self._resources: dict[str, tuple[Resource, bool]] = {}
        """Each resource by its names, and whether its objects are in namespaces."""

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        found = self._find(kind, namespace, name)
        assert found is not None, f"there is no {kind} {name} in {namespace}"
        return without_managed_fields(found)

    def exists(self, kind: str, namespace: str, name: str) -> bool:
        return self._find(kind, namespace, name) is not None

    def items(self, kinds: str, namespace: str | None, selector: str = "") -> list[dict[str, Any]]:
        """All objects of these kinds, which commas separate; without a namespace, those of all."""
        found: list[dict[str, Any]] = []
        for kind in kinds.split(","):
            resource, is_namespaced = self._resource(kind)
            objects = self._cluster.list_objects(resource, namespace if is_namespaced else None, selector)
            found += map(without_managed_fields, objects)
        return found

    def patch_status(self, kind: str, namespace: str, name: str, status: dict[str, Any]) -> None:
        """Change the status of an object, if it still exists."""
        path = self._resource(kind)[0].path(namespace, name, "status")
        with missing_is_fine():
            self._cluster.connection.send_json("PATCH", path, body={"status": status}, content_type=MERGE)

    def delete_at_once(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object without a grace period, if it still exists."""
        path = self._resource(kind)[0].path(namespace, name)
        with missing_is_fine():
            self._cluster.connection.send_json("DELETE", path, {"gracePeriodSeconds": "0"})

    def _find(self, kind: str, namespace: str, name: str) -> Any:
        resource, is_namespaced = self._resource(kind)
        # The path of an object without a namespace has none; the client takes an empty one for that.
        return self._cluster.get(resource, namespace if is_namespaced else "", name)

    def _resource(self, kind: str) -> tuple[Resource, bool]:
        if kind.lower() not in self._resources:  # not asked for yet, or defined since
            self._resources = self._discover()
        assert kind.lower() in self._resources, f"the API server has no kind {kind!r}"
        return self._resources[kind.lower()]

    def _discover(self) -> dict[str, tuple[Resource, bool]]:
        connection = self._cluster.connection
        groups = connection.send_json("GET", "/apis")["groups"]
        found: dict[str, tuple[Resource, bool]] = {}
        for path in ("/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)):
            group, _, version = path.removeprefix("/api/").removeprefix("/apis/").rpartition("/")
            for one in connection.send_json("GET", path)["resources"]:
                if "/" in one["name"]:  # a part of an object
                    continue
                resource = Resource(one["kind"], group, version, one["name"])
                names = (one["name"], one["singularName"], one["kind"].lower(), *one.get("shortNames", ()))
                for name in (*names, f"{one['name']}.{group}"):
                    found.setdefault(name, (resource, one["namespaced"]))
        return found


@contextlib.contextmanager
def missing_is_fine() -> Iterator[None]:
    """Let pass that the object does not exist any more."""
    try:
        yield
    except ApiError as error:
        if error.status != 404:
            raise


def without_managed_fields(item: dict[str, Any]) -> dict[str, Any]:
    item["metadata"].pop("managedFields", None)
    return item


@functools.cache
def api_reader(kubeconfig: str) -> ApiReader:
    """The reader of that cluster, shared by all tests of this process."""
    return ApiReader(kubeconfig)
