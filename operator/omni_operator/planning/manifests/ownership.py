"""Who owns a child: the owner reference, with which it is deleted with its pipeline, and the hash of its content."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import API_VERSION, KIND, OmniPipeline
from omni_operator.planning.manifests.labels import PIPELINE

SPEC_HASH = "omnipipeline.dev/spec-hash"
"""Annotation: the hash of what we applied, which tells a new desired content from a change by others."""
IMAGELESS_HASH = "omnipipeline.dev/imageless-spec-hash"
"""Annotation of a Deployment: the hash without the images of its containers, which tells a change of image alone."""
POD_HASH = "omnipipeline.dev/pod-hash"
"""Annotation of a Deployment: the hash of its pod template, which tells a change that replaces the pods."""
RETAINED = "omnipipeline.dev/retained"
"""Annotation of a claim that outlives its pipeline."""


def owner_reference(pipeline: OmniPipeline) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": pipeline.name,
        "uid": pipeline.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def controller_uid(child: Object) -> str | None:
    """The uid of the object that controls a child; None if none does."""
    references = child["metadata"].get("ownerReferences") or []
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)


def is_ours(child: Object, uid: str, pipeline: str) -> bool:
    """Whether the pipeline with this uid and name owns a child, or nobody does and it was retained for the name."""
    metadata = child["metadata"]
    if (metadata.get("annotations") or {}).get(RETAINED) and not metadata.get("ownerReferences"):
        return bool((metadata.get("labels") or {}).get(PIPELINE) == pipeline)
    return controller_uid(child) == uid


def pipeline_of(child: Object) -> str | None:
    """The name of the pipeline that an object belongs to: by its owner, or by its label, which pods have.

    For a pipeline: its own name.
    """
    metadata = child["metadata"]
    if child.get("kind") == KIND:
        return str(metadata["name"])
    for reference in metadata.get("ownerReferences") or []:
        if reference.get("controller") and reference["kind"] == KIND:
            return str(reference["name"])
    return (metadata.get("labels") or {}).get(PIPELINE)


def content_hash(content: Any) -> str:
    """Ten hex digits that change with the content, which must be JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def child(
    pipeline: OmniPipeline,
    api_version: str,
    kind: str,
    name: str,
    labels: Mapping[str, str],
    content: Mapping[str, Any],
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """An object that the pipeline owns, with the hash of its content as an annotation.

    `content`: all top-level keys except apiVersion, kind and metadata
    """
    annotations = dict(annotations or {})
    hashed = [dict(labels), dict(content), *([annotations] if annotations else [])]
    hashes = {SPEC_HASH: content_hash(hashed)}
    if kind == "Deployment":
        hashes[POD_HASH] = content_hash(content["spec"]["template"])
        hashes[IMAGELESS_HASH] = content_hash([dict(labels), without_images(content), annotations])
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": pipeline.namespace,
            "labels": dict(labels),
            "annotations": {**annotations, **hashes},
            "ownerReferences": [owner_reference(pipeline)],
        },
        **content,
    }


def without_images(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a Deployment without the images of its containers."""
    copy: dict[str, Any] = deepcopy(dict(content))
    pod = copy["spec"]["template"].get("spec") or {}  # a user's template may say null
    for container in pod.get("containers") or []:
        container.pop("image", None)
    return copy
