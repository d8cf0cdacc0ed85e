"""What a model call writes into its arguments, as caches of keys and values are written to.

A call is computed on copies of the containers among its arguments. What it wrote there is split, joined, compared and
sent to other ranks like its result, and reaches the request's own containers when the call is complete. So calls that
write can share a batch, and a call that failed has left no trace.
"""

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from omni_worker.pipelines.batching.structure import COMMON_TYPES, Path, Place, fill, parts, rebuild


class Unchanged(enum.Enum):
    """Stands for an item of a container that is still the same."""

    KEPT = "kept"


Changes = dict[Path, dict[Any, Any]]
"""The new items of each container that was written to, by its place among the arguments."""
Snapshot = dict[Path, tuple[Any, dict[Any, Any]]]
"""Each container of a tree, and what it held at a time."""


class Outcome(NamedTuple):
    """What a call does: it returns a result, and may write to its arguments.

    In the result too, a `Place` stands for a container that is among the arguments: models return their caches.
    """

    result: Any
    changes: Changes


def take_snapshot(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Snapshot:
    """The containers that a call with these arguments can write to, as they are now."""
    seen: set[int] = set()
    found: Snapshot = {}
    for name, value in (*enumerate(args), *kwargs.items()):
        found.update({path: (one, dict(parts(one) or {})) for path, one in _containers(value, (name,), seen)})
    return found


def changes_since(snapshot: Snapshot) -> Changes:
    """What has been written to the containers of a snapshot since it was taken."""
    places = {id(container): Place(path) for path, (container, _) in snapshot.items()}
    changes: Changes = {}
    for path, (container, before) in snapshot.items():
        now = dict(parts(container) or {})
        items = {
            name: Unchanged.KEPT if name in before and _is_same(before[name], item) else places.get(id(item), item)
            for name, item in now.items()
        }
        if len(now) != len(before) or any(item is not Unchanged.KEPT for item in items.values()):
            changes[path] = items
    return changes


def with_places(result: Any, snapshot: Snapshot) -> Any:
    """The result of a call, with places for the containers of its arguments."""
    places = {id(container): Place(path) for path, (container, _) in snapshot.items()}
    return _mapped(result, lambda value: places.get(id(value))) if places else result


def write(outcome: Outcome, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Make the changes of an outcome to the containers among these arguments. Returns its result, which may hold them.

    Raises KeyError if these are not the arguments of the call.
    """
    own = take_snapshot(args, kwargs)
    if not own:
        return outcome.result
    for path, items in outcome.changes.items():
        container, before = own[path]
        fill(container, {name: _resolve(item, before.get(name), own) for name, item in items.items()})
    return _mapped(outcome.result, lambda value: own[value.path][0] if isinstance(value, Place) else None)


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A tree in which `function` has replaced what it returns something for. It is the same one if that is nothing."""
    if isinstance(value, Tensor):
        return value
    replacement = function(value)
    items = parts(value) if replacement is None else None
    if items is None:
        return value if replacement is None else replacement
    mapped = {name: _mapped(item, function) for name, item in items.items()}
    return value if all(mapped[name] is item for name, item in items.items()) else rebuild(value, mapped)


def _resolve(item: Any, before: Any, own: Snapshot) -> Any:
    if item is Unchanged.KEPT:
        return before
    return own[item.path][0] if isinstance(item, Place) else item


def _containers(value: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    items = parts(value)
    if items is None or id(value) in seen:
        return
    seen.add(id(value))
    if not isinstance(value, tuple):
        yield path, value
    for name, item in items.items():
        if type(item) not in COMMON_TYPES:
            yield from _containers(item, (*path, name), seen)


def _is_same(before: Any, now: Any) -> bool:
    return before is now or (type(before) is type(now) and type(now) in COMMON_TYPES and bool(before == now))
