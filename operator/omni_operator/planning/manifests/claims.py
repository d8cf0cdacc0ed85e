"""The volumes of a pipeline that are made for it, or named by it: for what it downloads from the hub, and for videos.

A claim that is to be retained has no owner, so that the cluster's garbage collection passes it by. The pipeline of the
same name finds it again by its labels.
"""

from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.parts import Storage
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import RETAINED, child
from omni_operator.planning.topology.records import Process

CACHE_DIR = "/cache"
CACHE = "model-cache"
VIDEOS = "videos"
ONE_NODE = "ReadWriteOnce"


def claims(pipeline: OmniPipeline) -> list[Object]:
    """Those that are made."""
    cache, videos = pipeline.spec.model.cache, pipeline.spec.videos.storage
    found = [claim(pipeline, cache_name(pipeline, cache), cache, cache.access_mode)] if cache else []
    found += [claim(pipeline, videos_name(pipeline, videos), videos, ONE_NODE)] if videos else []
    return [one for one in found if one]


def claim(pipeline: OmniPipeline, name: str, storage: Storage, access_mode: str) -> Object | None:
    """None where it is the user's own."""
    if storage.size is None:
        return None
    spec: dict[str, Any] = {
        "accessModes": [access_mode],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    made = child(
        pipeline,
        "v1",
        "PersistentVolumeClaim",
        name,
        labels.common(pipeline.name),
        {"spec": spec},
        annotations={RETAINED: "true"} if storage.retain else {},
    )
    if storage.retain:
        del made["metadata"]["ownerReferences"]
    return made


def cache_name(pipeline: OmniPipeline, cache: Storage) -> str:
    return cache.claim_name or f"{pipeline.name}-models"


def videos_name(pipeline: OmniPipeline, videos: Storage) -> str:
    return videos.claim_name or f"{pipeline.name}-videos"


def cache_of(pipeline: OmniPipeline, process: Process) -> str | None:
    """The claim that a process downloads to, if it downloads anything."""
    cache = pipeline.spec.model.cache
    return cache_name(pipeline, cache) if cache and process.downloads else None


def videos_of(pipeline: OmniPipeline, process: Process) -> str | None:
    """The claim that a process keeps videos in, if it keeps any."""
    videos = pipeline.spec.videos.storage
    return videos_name(pipeline, videos) if videos and process.is_head else None
