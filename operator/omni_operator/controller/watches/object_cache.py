"""The latest version of every pipeline and its children, filled by the watches so that a pass need not read them.

The cache keeps each object as compressed JSON, in a fifth of the memory of a dictionary. Of two versions the newer one
stays, whether it came from a watch or from the answer to one of our own writes; so a pass never sees less than this
operator wrote. After a watch has listed all objects again, the cache drops those that the list lacks. Thread-safe.
"""

import json
import sys
import threading
import zlib
from collections.abc import Callable, Collection
from typing import NamedTuple

from omni_operator.crd.objects import FIELD_MANAGER, Object, PipelineKey, Reference, Scope
from omni_operator.planning.manifests.ownership import pipeline_of

Location = tuple[str, Reference]
"""Namespace, and kind and name, of an object."""


class CacheEntry(NamedTuple):
    """An object as compressed JSON, with its resource version."""

    version: str
    content: bytes

    @property
    def object(self) -> Object:
        found: Object = json.loads(zlib.decompress(self.content))
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

    def objects_of(self, key: PipelineKey, kinds: Collection[str]) -> list[Object]:
        """The objects of a pipeline, of some kinds."""
        with self._lock:
            entries = self._by_pipeline.get(key) or {}
            selected = [entry for (kind, _), entry in entries.items() if kind in kinds]
        return [entry.object for entry in selected]

    def put(self, child: Object, notify: bool = True) -> None:
        """Keep an object, unless this or a newer version is in the cache. `notify`: call `on_change` if it is new."""
        location, owner = location_of(child), pipeline_of(child)
        namespace, reference = location
        version = str(child["metadata"].get("resourceVersion", ""))
        with self._lock:
            previous_owner = self._owners.get(location)
            cached = self._by_pipeline[namespace, previous_owner][reference] if previous_owner else None
            if cached and not is_newer(version, cached.version):
                return
            if previous_owner and previous_owner != owner:
                self._drop(location)
            if owner:
                owner = sys.intern(owner)
                self._owners[location] = owner
                self._by_pipeline.setdefault((namespace, owner), {})[reference] = CacheEntry(version, compressed(child))
        if notify:
            self._notify(namespace, previous_owner, owner)

    def remove(self, child: Object) -> None:
        """Drop an object that was deleted."""
        location, owner = location_of(child), pipeline_of(child)
        with self._lock:
            previous_owner = self._drop(location)
        self._notify(location[0], previous_owner, owner)

    def keep_only(self, kind: str, scope: Scope, names: Collection[PipelineKey]) -> None:
        """Drop all objects of a kind in a scope, except those with one of these namespaces and names."""
        with self._lock:
            deleted = [
                (namespace, (found_kind, name))
                for namespace, (found_kind, name) in self._owners
                if found_kind == kind and scope in (None, namespace) and (namespace, name) not in names
            ]
            owners = [(location[0], self._drop(location)) for location in deleted]
        for namespace, owner in owners:
            self._notify(namespace, owner)

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


def compressed(child: Object) -> bytes:
    return zlib.compress(json.dumps(without_managed_fields(child), separators=(",", ":")).encode(), 1)


def without_managed_fields(child: Object) -> Object:
    """An object without `managedFields`, which are half of its size. A Deployment keeps our own entry, which the plan
    reads."""
    metadata = dict(child["metadata"])
    entries = metadata.pop("managedFields", None) or []
    if child["kind"] == "Deployment":
        metadata["managedFields"] = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER]
    return {**child, "metadata": metadata}


def location_of(child: Object) -> Location:
    metadata = child["metadata"]
    return sys.intern(metadata["namespace"]), (sys.intern(child["kind"]), metadata["name"])


def is_newer(version: str, cached: str) -> bool:
    """Whether a resource version replaces the cached one. Numbers grow; any other versions only differ."""
    if version.isdigit() and cached.isdigit():
        return int(version) > int(cached)
    return version != cached
