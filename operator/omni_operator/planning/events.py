"""Which Events a change of the status is worth: what was made, scaled, rolled out, or is in trouble. Pure.

Events follow from two statuses, and are made where the second is written: so nothing is told twice, and a steady state
tells nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.crd.spec.pipeline import API_VERSION, KIND
from omni_operator.crd.status_types import Condition, Status
from omni_operator.planning.manifests.ownership import content_hash

# Reasons of Ready=False that only need time, or were asked for.
PATIENT = ("Starting", "RollingOut", "Suspended", "ScaledToZero")
MESSAGE = 1000


@dataclass(frozen=True)
class Event:
    """One Event: a word, a sentence, and whether a person should look."""

    reason: str
    message: str
    is_warning: bool = False


def status_events(before: Object, status: Status) -> Iterator[Event]:
    """What there is to tell when `status` takes the place of the one `before`, as it was read."""
    old = {one["type"]: one for one in before.get("conditions") or []}
    new = {str(one.type): one for one in status.conditions}
    if not old and is_true(new.get("Accepted")):
        yield Event("Created", "the pipeline is accepted, and its objects are made")
    counts = {stage["name"]: stage.get("desired", 0) for stage in before.get("stages") or []}
    for stage in status.stages:
        if stage.name in counts and stage.desired != counts[stage.name]:
            yield Event("Scaled", f"stage {stage.name}: from {counts[stage.name]} to {stage.desired} pods")
    progressing = new.get("Progressing")
    if (
        progressing
        and (old.get("Progressing") or {}).get("reason") == "RollingOut"
        and progressing.reason == "Complete"
    ):
        yield Event("RolledOut", "every pod runs the present spec")
    ready, accepted = new.get("Ready"), new.get("Accepted")
    if accepted and not is_true(accepted):
        if differs(accepted, old.get("Accepted"), by_message=True):
            yield Event(accepted.reason, accepted.message, is_warning=True)
    elif is_true(ready) and (old.get("Ready") or {}).get("status") != "True":
        assert ready is not None
        yield Event("Ready", ready.message)
    elif ready and not is_true(ready) and ready.reason not in PATIENT and differs(ready, old.get("Ready")):
        yield Event(ready.reason, ready.message, is_warning=True)


def is_true(condition: Condition | None) -> bool:
    return condition is not None and condition.status == "True"


def differs(new: Condition, old: Object | None, by_message: bool = False) -> bool:
    seen = old or {}
    return new.reason != seen.get("reason") or (by_message and new.message != seen.get("message"))


def event_object(pipeline: Object, told: Event, now: str) -> Object:
    """The Event of a pipeline, as it is to be made. Its name follows from what it tells, and when."""
    metadata = pipeline["metadata"]
    name = f"{metadata['name']}.{content_hash([metadata['uid'], told.reason, told.message, now])}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": "Warning" if told.is_warning else "Normal",
        "reason": told.reason,
        "message": told.message[:MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
