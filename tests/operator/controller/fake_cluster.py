"""An API server in memory, as far as a pass over a pipeline needs one."""

from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import CHILDREN, PIPELINES, Resource


class FakeCluster(Cluster):
    """Stores whole objects: an apply replaces the object, which is enough for one field manager.

    `rejected` maps a kind to the error that every write of it raises. `writes` lists (verb, kind, name).
    """

    def __init__(self, *objects: Object) -> None:
        self.objects = {(one["kind"], one["metadata"]["name"]): dict(one) for one in objects}
        self.rejected: dict[str, ApiError] = {}
        self.writes: list[tuple[str, str, str]] = []

    child_resources = CHILDREN
    version: Mapping[str, str] = {"major": "1", "minor": "37"}
    is_inside = False

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return self.objects.get((resource.kind, name))

    def apply(
        self,
        resource: Resource,
        child: Object,
        force: bool,
        manager: str = FIELD_MANAGER,
        is_dry_run: bool = False,
    ) -> Object:
        metadata = child["metadata"]
        existing = self.objects.get((resource.kind, metadata["name"]))
        if metadata.get("resourceVersion") and existing:
            raise ApiError(409, "Conflict", "the object has been modified")
        if existing and not force:
            raise ApiError(409, "Conflict", "somebody manages a field", [("spec", "FieldManagerConflict", "")])
        return dict(child) if is_dry_run else self._write("apply", resource, child)

    def create(self, resource: Resource, content: Object) -> Object:
        return self._write("create", resource, content)

    def merge(self, resource: Resource, namespace: str, name: str, change: Object) -> Object:
        return self._write("merge", resource, {"metadata": {"name": name}, **change})

    def write_status(self, pipeline: Object, status: Mapping[str, Any]) -> Object:
        return self._write("status", PIPELINES, {**pipeline, "status": status})

    def delete(self, resource: Resource, child: Object) -> None:
        self._write("delete", resource, child)
        del self.objects[resource.kind, child["metadata"]["name"]]

    def get_from_service(self, *request: Any, **more: Any) -> Any:
        raise ApiError(503, "ServiceUnavailable", "no endpoints")

    def _write(self, verb: str, resource: Resource, content: Object) -> Object:
        if resource.kind in self.rejected:
            raise self.rejected[resource.kind]
        name = content["metadata"]["name"]
        self.writes.append((verb, resource.kind, name))
        metadata = {"uid": f"uid-of-{name}", **content["metadata"], "resourceVersion": str(len(self.writes) + 1)}
        written = {**content, "metadata": metadata}
        if verb != "merge":
            self.objects[resource.kind, name] = written
        return written
