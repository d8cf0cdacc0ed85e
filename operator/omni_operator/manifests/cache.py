"""The volume where a pipeline keeps what it downloads from the model hub: made for it, or named by it.

A claim that is to be retained has no owner, so that the cluster's garbage collection passes it by. The pipeline of the
same name finds it again by its labels.
"""

from typing import Any

from omni_operator.manifests import labels
from omni_operator.manifests.ownership import RETAINED, child
from omni_operator.spec import Cache, OmniPipeline
from omni_operator.topology import Process

MOUNT = "/cache"
VOLUME = "model-cache"


def cache_claims(pipeline: OmniPipeline) -> list[dict[str, Any]]:
    """One, or none where there is no cache, or its claim is the user's own."""
    cache = pipeline.spec.model.cache
    if cache is None or cache.size is None:
        return []
    spec: dict[str, Any] = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": cache.size}},
    }
    if cache.storage_class is not None:
        spec["storageClassName"] = cache.storage_class
    claim = child(
        pipeline,
        "v1",
        "PersistentVolumeClaim",
        claim_name(pipeline, cache),
        labels.common(pipeline.name),
        {"spec": spec},
        annotations={RETAINED: "true"} if cache.retain else {},
    )
    if cache.retain:
        del claim["metadata"]["ownerReferences"]
    return [claim]


def claim_name(pipeline: OmniPipeline, cache: Cache) -> str:
    return cache.claim_name or f"{pipeline.name}-models"


def cache_of(pipeline: OmniPipeline, process: Process) -> str | None:
    """The claim that a process downloads to, if it downloads anything."""
    cache = pipeline.spec.model.cache
    return claim_name(pipeline, cache) if cache and process.downloads else None
