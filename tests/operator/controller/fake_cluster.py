"""An API server in memory, as far as a pass over a pipeline needs one."""

from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object, Reference
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import CHILDREN, PIPELINES, Resource


class FakeCluster(Cluster):
    """Stores whole objects: an apply replaces the object, which is enough for one field manager.

    `rejected` maps a kind, or a kind and a name, to the error that every write of it raises, and `rejected_dry_run` is
    that of all dry runs. `writes` lists (verb, kind, name); `calls` lists the same of reads and dry runs too.
    """

    def __init__(self, *objects: Object) -> None:
        self.objects = {(one["kind"], one["metadata"]["name"]): dict(one) for one in objects}
        self.rejected: dict[str | Reference, ApiError] = {}
        self.rejected_dry_run: ApiError | None = None
        self.calls: list[tuple[str, str, str]] = []
        self.writes: list[tuple[str, str, str]] = []

    child_resources = CHILDREN
    version: Mapping[str, str] = {"major": "1", "minor": "37"}
    is_inside = False

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        self.calls.append(("get", resource.kind, name))
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
        if is_dry_run:
            self._call("dry-run", resource, metadata["name"])
            if self.rejected_dry_run:
                raise self.rejected_dry_run
            return dict(child)
        return self._write("apply", resource, child)

    def edit(self, pipeline: Object) -> Object:
        """What somebody else makes of a pipeline."""
        return self._write("edit", PIPELINES, pipeline)

    def create(self, resource: Resource, content: Object, is_dry_run: bool = False) -> Object:
        name = content["metadata"]["name"]
        if (resource.kind, name) in self.objects:
            raise ApiError(409, "AlreadyExists", "there is one of that name")
        if is_dry_run:
            self._call("dry-run", resource, name)
            return content
        return self._write("create", resource, content)

    def merge(self, resource: Resource, namespace: str, name: str, change: Object) -> Object:
        metadata = {"name": name, "namespace": namespace, **change.get("metadata", {})}
        return self._write("merge", resource, {"kind": resource.kind, **change, "metadata": metadata})

    def write_status(self, pipeline: Object, status: Mapping[str, Any]) -> Object:
        live = self.objects[PIPELINES.kind, pipeline["metadata"]["name"]]
        return self._write("status", PIPELINES, {**live, "status": status})

    def delete(self, resource: Resource, child: Object) -> None:
        self._write("delete", resource, child)
        del self.objects[resource.kind, child["metadata"]["name"]]

    def get_from_service(self, *request: Any) -> bytes:
        raise Unreachable("no head runs here")

    def _write(self, verb: str, resource: Resource, content: Object) -> Object:
        name = content["metadata"]["name"]
        self._call(verb, resource, name)
        self.writes.append((verb, resource.kind, name))
        metadata = {"uid": f"uid-of-{name}", **content["metadata"], "resourceVersion": str(len(self.writes) + 1)}
        written = {**content, "metadata": metadata}
        if verb != "merge":
            self.objects[resource.kind, name] = written
        return written

    def _call(self, verb: str, resource: Resource, name: str) -> None:
        self.calls.append((verb, resource.kind, name))
        for rejected in (resource.kind, (resource.kind, name)):
            if rejected in self.rejected:
                raise self.rejected[rejected]
