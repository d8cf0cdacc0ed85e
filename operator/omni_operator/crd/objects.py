"""What every package of the operator calls the objects of a cluster: the types of an object and of its keys. Pure.

Also the name under which the operator writes to the cluster. Nothing here knows what an `OmniPipeline` contains.
"""

from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object, as the API server returns it or accepts it. Nobody modifies one: caches share them."""
Reference = tuple[str, str]
"""Kind and name of an object, within a namespace."""
PipelineKey = tuple[str, str]
"""Namespace and name of a pipeline."""
Scope = str | None
"""The namespace that something covers; None for all namespaces of the cluster."""

FIELD_MANAGER = "omni-operator"
"""Name of the operator: as field manager of server-side apply, in the label managed-by, and as source of Events."""
