"""The PersistentVolumeClaims of a pipeline: for models from the hub and for videos, its own or the user's.

A retained claim has no owner, so it outlives the pipeline. A new pipeline of the same name finds it by its label. It is
not in Git, so GitOps tools must not take it for an object that was removed there.
"""

from collections.abc import Mapping
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.parts import Storage
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import RETAINED, child
from omni_operator.planning.topology.records import Process

CACHE_DIR = "/cache"
CACHE_VOLUME = "model-cache"
VIDEOS_VOLUME = "videos"
ONE_NODE = "ReadWriteOnce"
NEVER_PRUNED = {
    "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
    "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
    "kustomize.toolkit.fluxcd.io/prune": "disabled",
}
"""Annotations that keep Argo CD and Flux from deleting an object, and from calling it out of sync."""


def claims(pipeline: OmniPipeline) -> list[Object]:
    """The claims to create. A claim that the user names is not one of them."""
    cache, videos = pipeline.spec.model.cache, pipeline.spec.videos.storage
    created = [new_claim(pipeline, cache_claim_name(pipeline, cache), cache, cache.access_mode)] if cache else []
    created += [new_claim(pipeline, videos_claim_name(pipeline, videos), videos, ONE_NODE)] if videos else []
    return [claim for claim in created if claim]


def new_claim(pipeline: OmniPipeline, name: str, storage: Storage, access_mode: str) -> Object | None:
    """The claim to create; None if the user names an existing one."""
    if storage.size is None:
        return None
    spec: dict[str, Any] = {
        "accessModes": [access_mode],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    if storage.retain:
        return retained_claim(pipeline, name, spec)
    return child(pipeline, "v1", "PersistentVolumeClaim", name, labels.common(pipeline.name), {"spec": spec})


def retained_claim(pipeline: OmniPipeline, name: str, spec: Mapping[str, Any]) -> Object:
    """A claim without an owner, and without the label by which Argo CD tracks the objects of an application."""
    own_labels = {key: value for key, value in labels.common(pipeline.name).items() if key != labels.INSTANCE}
    annotations = {RETAINED: "true", **NEVER_PRUNED}
    claim = child(pipeline, "v1", "PersistentVolumeClaim", name, own_labels, {"spec": spec}, annotations)
    del claim["metadata"]["ownerReferences"]
    return claim


def cache_claim_name(pipeline: OmniPipeline, cache: Storage) -> str:
    return cache.claim_name or f"{pipeline.name}-models"


def videos_claim_name(pipeline: OmniPipeline, videos: Storage) -> str:
    return videos.claim_name or f"{pipeline.name}-videos"


def cache_of(pipeline: OmniPipeline, process: Process) -> str | None:
    """The claim that a process downloads models to, or keeps compiled code in; None if it has none."""
    cache = pipeline.spec.model.cache
    return cache_claim_name(pipeline, cache) if cache and (process.downloads or process.keeps_code) else None


def videos_of(pipeline: OmniPipeline, process: Process) -> str | None:
    """The claim in which a process keeps videos; None if it has none."""
    videos = pipeline.spec.videos.storage
    return videos_claim_name(pipeline, videos) if videos and process.is_head else None
