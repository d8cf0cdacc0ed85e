"""The latest version of every pipeline and its children, filled by the watches so that a pass need not read them.

The cache keeps each object as compressed JSON, in a fifth of the memory of a dictionary, with a hash of what a plan
reads of it, which tells a pass whether it must plan again. Of two versions the newer one stays, whether it came from a
watch or from the answer to one of our own writes; so a pass never sees less than this operator wrote. After a watch has
listed all objects again, the cache drops those that the list lacks. An object that was deleted before the answer to our
write arrived stays deleted: the cache knows how far each watch has come. Thread-safe.
"""

import sys
import threading
import zlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from omni_operator.crd.objects import FIELD_MANAGER, Object, PipelineKey, Reference, Scope
from omni_operator.kube.resources import PIPELINES, PODS
from omni_operator.planning.manifests.ownership import pipeline_of

Location = tuple[str, Reference]
"""Namespace, and kind and name, of an object."""


WITHOUT_FIELDS = (PIPELINES.kind, PODS.kind)
"""The kinds that no plan applies."""


REPORTED_STATUS = ("Deployment", "PodDisruptionBudget", "Service", "HTTPRoute", PIPELINES.kind)
"""The kinds whose status only the report reads: no plan depends on it."""


class CacheEntry(NamedTuple):
    """An object as compressed JSON, with its resource version.

    planned: a hash of the object without its version, and for REPORTED_STATUS without its status
    """

    version: str
    planned: int
    content: bytes

    @classmethod
    def of(cls, child: Object) -> "CacheEntry":
        """Of `managedFields` only our own entry is kept, which the plan reads; of pods and pipelines none."""
        rest, metadata = dict(child), dict(child["metadata"])
        entries = metadata.pop("managedFields", None)
        if entries is not None and child["kind"] not in WITHOUT_FIELDS:
            metadata["managedFields"] = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER]
        version = str(metadata.pop("resourceVersion", ""))
        status = rest.pop("status", None) if child["kind"] in REPORTED_STATUS else None
        rest["metadata"] = metadata
        planned = msgspec.json.encode(rest)
        # JSON has no newline that is not escaped.
        content = zlib.compress(planned + b"\n" + msgspec.json.encode(status), 1)
        return cls(version, hash(planned), content)

    @property
    def object(self) -> Object:
        planned, _, status = zlib.decompress(self.content).partition(b"\n")
        found: dict[str, Any] = msgspec.json.decode(planned)
        if self.version:
            found["metadata"]["resourceVersion"] = self.version
        if status != b"null":
            found["status"] = msgspec.json.decode(status)
        return found


class ObjectCache:
    """Objects by the pipeline that they belong to.

    `on_change` is called with a pipeline's key, from any thread, when one of its objects changed.
    """

    def __init__(self, on_change: Callable[[PipelineKey], None] = lambda key: None) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._by_pipeline: dict[PipelineKey, dict[Reference, CacheEntry]] = {}
        self._owners: dict[Location, str] = {}
        self._reached: dict[tuple[str, Scope], str] = {}
        """The newest version that the watch of a kind has reported in a namespace, or listed in a scope."""

    def objects_of(self, key: PipelineKey, kinds: Collection[str]) -> list[Object]:
        """The objects of a pipeline, of some kinds."""
        return self.planned_objects_of(key, kinds)[0]

    def planned_objects_of(self, key: PipelineKey, kinds: Collection[str]) -> tuple[list[Object], int]:
        """The objects of a pipeline, of some kinds; and a hash of what a plan reads of them."""
        with self._lock:
            entries = self._by_pipeline.get(key) or {}
            selected = {reference: entry for reference, entry in entries.items() if reference[0] in kinds}
        planned = hash(frozenset((reference, entry.planned) for reference, entry in selected.items()))
        return [entry.object for entry in selected.values()], planned

    def put(self, child: Object, notify: bool = True) -> bool:
        """Keep an object that was watched or read, unless this or a newer version is in the cache.

        Returns whether it was kept. `notify`: call `on_change` then.
        """
        location = location_of(child)
        with self._lock:
            self._reach(child)
            owners = self._store(location, child)
        if notify:
            self._notify(location[0], *owners or ())
        return owners is not None

    def put_written(self, child: Object) -> None:
        """Keep the answer to one of our own writes, without a report: the writer knows it.

        If a watch is past this version and the cache has no such object, it has been deleted since. That is reported.
        """
        location = location_of(child)
        with self._lock:
            is_deleted = location not in self._owners and self._is_past(child)
            if not is_deleted:
                self._store(location, child)
        if is_deleted:
            self._notify(location[0], pipeline_of(child))

    def remove(self, child: Object) -> None:
        """Drop an object that was deleted."""
        location, owner = location_of(child), pipeline_of(child)
        with self._lock:
            self._reach(child)
            previous_owner = self._drop(location)
        self._notify(location[0], previous_owner, owner)

    def keep_only(self, kind: str, scope: Scope, names: Collection[PipelineKey], version: str = "") -> None:
        """Drop all objects of a kind in a scope, except those with one of these namespaces and names.

        `version`: that of the list that has these names
        """
        with self._lock:
            if version:
                self._reached[kind, scope] = version
            deleted = [
                (namespace, (found_kind, name))
                for namespace, (found_kind, name) in self._owners
                if found_kind == kind and scope in (None, namespace) and (namespace, name) not in names
            ]
            owners = [(location[0], self._drop(location)) for location in deleted]
        for namespace, owner in owners:
            self._notify(namespace, owner)

    def notify_all(self, scope: Scope) -> None:
        """Call `on_change` with every pipeline of a scope."""
        with self._lock:
            keys = [key for key in self._by_pipeline if scope in (None, key[0])]
        for key in keys:
            self._on_change(key)

    def _store(self, location: Location, child: Object) -> tuple[str | None, ...] | None:
        """Keep an object, with the lock held. Returns its previous and present owner; None if it is not newer."""
        owner, version = pipeline_of(child), version_of(child)
        namespace, reference = location
        previous_owner = self._owners.get(location)
        cached = self._by_pipeline[namespace, previous_owner][reference] if previous_owner else None
        if cached and not is_newer(version, cached.version):
            return None
        if previous_owner and previous_owner != owner:
            self._drop(location)
        if owner:
            owner = sys.intern(owner)
            self._owners[location] = owner
            self._by_pipeline.setdefault((namespace, owner), {})[reference] = CacheEntry.of(child)
        return previous_owner, owner

    def _reach(self, child: Object) -> None:
        """Note that a watch has come as far as this object, with the lock held."""
        key, version = (child["kind"], child["metadata"]["namespace"]), version_of(child)
        if is_newer(version, self._reached.get(key, "0")):
            self._reached[key] = version

    def _is_past(self, child: Object) -> bool:
        """Whether a watch has already reported the version of this object, or a later one, with the lock held."""
        version = version_of(child)
        reached = (self._reached.get((child["kind"], scope), "") for scope in (child["metadata"]["namespace"], None))
        return version.isdigit() and any(one.isdigit() and int(one) >= int(version) for one in reached)

    def _drop(self, location: Location) -> str | None:
        """Remove an object, with the lock held. Returns the pipeline that it belonged to."""
        namespace, reference = location
        owner = self._owners.pop(location, None)
        if owner:
            entries = self._by_pipeline[namespace, owner]
            del entries[reference]
            if not entries:
                del self._by_pipeline[namespace, owner]
        return owner

    def _notify(self, namespace: str, *owners: str | None) -> None:
        for owner in sorted({owner for owner in owners if owner}):
            self._on_change((namespace, owner))


def location_of(child: Object) -> Location:
    metadata = child["metadata"]
    return sys.intern(metadata["namespace"]), (sys.intern(child["kind"]), metadata["name"])


def version_of(child: Object) -> str:
    return str(child["metadata"].get("resourceVersion", ""))


def is_newer(version: str, cached: str) -> bool:
    """Whether a resource version replaces the cached one. Numbers grow; any other versions only differ."""
    if version.isdigit() and cached.isdigit():
        return int(version) > int(cached)
    return version != cached
