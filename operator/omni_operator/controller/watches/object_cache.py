"""What the watches have told of every pipeline and its children, kept so that a pass need not ask for it.

Each object is kept as compressed JSON, a fifth of what it takes in Python. Of two versions of an object the newer one
counts, whether it came by a watch or as the answer to a write of our own; so nobody sees less than was written here. A
watch that begins anew tells all there is, and what it does not name any more is gone. Usable from many threads.
"""

import json
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.planning.manifests.ownership import pipeline_of

Key = tuple[str, str]
"""Namespace and name of a pipeline."""
Reference = tuple[str, str]
"""Kind and name of a child."""
Scope = str | None
"""A namespace, or all of them."""


class Kept(NamedTuple):
    version: str
    content: bytes

    @property
    def object(self) -> Object:
        found: Object = json.loads(zlib.decompress(self.content))
        return found


class Store:
    """`changed` is told, from any thread, the pipeline of which something is another than before."""

    def __init__(self, changed: Callable[[Key], None] = lambda key: None) -> None:
        self.changed = changed
        self._lock = threading.Lock()
        self._groups: dict[Key, dict[Reference, Kept]] = {}
        self._owners: dict[tuple[str, Reference], str] = {}

    def of(self, key: Key, kinds: Collection[str]) -> list[Object]:
        """The children of a pipeline, of some kinds."""
        with self._lock:
            group = self._groups.get(key) or {}
            found = [kept for (kind, _), kept in group.items() if kind in kinds]
        return [kept.object for kept in found]

    def put(self, child: Mapping[str, Any], is_told: bool = True) -> None:
        """Keep an object, unless a newer version of it is here already; and tell of it, if that is wanted."""
        place, owner = where(child), pipeline_of(child)
        version = str(child["metadata"].get("resourceVersion", ""))
        with self._lock:
            before = self._owners.get(place)
            known = self._groups[place[0], before][place[1]] if before else None
            if known and not is_newer(version, known.version):
                return
            if before and before != owner:
                self._drop(place)
            if owner:
                owner = sys.intern(owner)
                self._owners[place] = owner
                self._groups.setdefault((place[0], owner), {})[place[1]] = Kept(version, packed(child))
        if is_told:
            self._tell(place[0], before, owner)

    def remove(self, child: Mapping[str, Any]) -> None:
        """Forget an object that is gone."""
        place, owner = where(child), pipeline_of(child)
        with self._lock:
            before = self._drop(place)
        self._tell(place[0], before, owner)

    def keep_only(self, kind: str, scope: Scope, names: Collection[Key]) -> None:
        """Forget all objects of a kind, in a namespace or in all, but those of these namespaces and names."""
        with self._lock:
            gone = [
                place
                for place in self._owners
                if place[1][0] == kind and scope in (None, place[0]) and (place[0], place[1][1]) not in names
            ]
            owners = [(place[0], self._drop(place)) for place in gone]
        for namespace, owner in owners:
            self._tell(namespace, owner)

    def _drop(self, place: tuple[str, Reference]) -> str | None:
        owner = self._owners.pop(place, None)
        if owner:
            group = self._groups[place[0], owner]
            del group[place[1]]
            if not group:
                del self._groups[place[0], owner]
        return owner

    def _tell(self, namespace: str, *owners: str | None) -> None:
        for owner in sorted({owner for owner in owners if owner}):
            self.changed((namespace, owner))


def packed(child: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(trimmed(child), separators=(",", ":")).encode(), 1)


def trimmed(child: Mapping[str, Any]) -> Object:
    """An object without the list of who manages which of its fields, half of it; ours of a Deployment is asked for."""
    metadata = dict(child["metadata"])
    entries = metadata.pop("managedFields", None) or []
    if child["kind"] == "Deployment":
        metadata["managedFields"] = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER]
    return {**child, "metadata": metadata}


def where(child: Mapping[str, Any]) -> tuple[str, Reference]:
    metadata = child["metadata"]
    return sys.intern(metadata["namespace"]), (sys.intern(child["kind"]), metadata["name"])


def is_newer(version: str, known: str) -> bool:
    """Whether a resource version follows another. They are numbers that grow, wherever they are compared at all."""
    if version.isdigit() and known.isdigit():
        return int(version) > int(known)
    return version != known
