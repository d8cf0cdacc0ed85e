"""The last valid spec that a pipeline was brought to, kept in its status. Pure.

While a pipeline's spec is not valid, what runs follows the last valid one, also after the operator has restarted. While
it is paused, the spec from before stays, so that the status can tell whether there is something to apply. Only the
operator may write the status, so nobody else chooses what it runs.
"""

import json
from typing import Any

from pydantic import ValidationError

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline, Spec

MAX_CHARACTERS = 200_000
"""Longest text that is kept. The API server takes objects of 1.5 MB in all."""


def kept_spec(pipeline: OmniPipeline, previous: Object) -> str | None:
    """The spec to keep, as text, after a status that may be empty; None if it is too long."""
    spec = pipeline.spec.model_dump(by_alias=True, mode="json", exclude_unset=True)
    if pipeline.spec.paused and (before := previous.get("lastValidSpec")):
        spec = {**json.loads(before), "paused": True}
    text = json.dumps(spec, separators=(",", ":"), sort_keys=True)
    return text if len(text) <= MAX_CHARACTERS else None


def is_in_effect(pipeline: OmniPipeline, kept: str | None) -> bool:
    """Whether a pipeline's spec is the kept one."""
    try:
        return kept is None or Spec.model_validate(json.loads(kept)) == pipeline.spec
    except ValidationError:  # of an older version of the operator
        return False


def with_last_valid_spec(manifest: Object) -> dict[str, Any] | None:
    """A manifest with the last valid spec in place of its own; None if that is not known."""
    text = (manifest.get("status") or {}).get("lastValidSpec")
    return {**manifest, "spec": json.loads(text)} if text else None
