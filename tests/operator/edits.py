"""Small edits of a manifest, each a path and a value, for tables of cases."""

import copy
from collections.abc import Mapping
from typing import Any

REMOVED = object()


def edited(manifest: Mapping[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with each path `a.b.0.c` set to its value. REMOVED removes the key; an index past the end appends."""
    result = copy.deepcopy(dict(manifest))
    for path, value in edits.items():
        *parents, last = path.split(".")
        node: Any = result
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last) : int(last) + 1] = [] if value is REMOVED else [value]
        elif value is REMOVED:
            del node[last]
        else:
            node[last] = value
    return result
