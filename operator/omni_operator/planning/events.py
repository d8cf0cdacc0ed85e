"""The Events that a change of a pipeline's status is worth: created, scaled, rolled out, ready, or in trouble. Pure.

Events follow from the previous and the new status, and the controller creates them when it writes the new one. So each
is reported once, and a steady state reports nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omni_operator.crd.objects import FIELD_MANAGER, Object
from omni_operator.crd.spec.pipeline import API_VERSION, KIND
from omni_operator.crd.status_types import Condition, Status
from omni_operator.planning.manifests.ownership import content_hash

# Reasons of Ready=False that the user asked for, or that only need time.
HARMLESS_REASONS = ("Starting", "RollingOut", "Suspended", "ScaledToZero", "Paused")
# Reasons of Ready=False that are worth an Event, and no warning: the pipeline goes on by itself.
WAITING_REASONS = ("Prefetching", "WaitingForQuota", "SchedulingGated")
MOST_CHARACTERS = 1000
"""Longest message of an Event. Longer ones are cut: Kubernetes limits them to 1 kB."""

PreviousConditions = Mapping[str, Mapping[str, Any]]
"""The conditions of the status before, by type, as the API server returned them."""
NewConditions = Mapping[str, Condition]


@dataclass(frozen=True)
class Event:
    """One CamelCase word, one sentence, and whether a person should look."""

    reason: str
    message: str
    is_warning: bool = False


def status_events(previous: Object, status: Status) -> Iterator[Event]:
    """The Events to create when `status` replaces the `previous` status, which may be empty."""
    old = {condition["type"]: condition for condition in previous.get("conditions") or []}
    new = {str(condition.type): condition for condition in status.conditions}
    if not old and is_true(new.get("Accepted")):
        yield Event("Created", "the pipeline is accepted, and its objects are made")
    yield from scaling_events(previous, status)
    if has_rolled_out(old, new):
        yield Event("RolledOut", "every pod runs the present spec")
    yield from readiness_events(old, new)


def scaling_events(previous: Object, status: Status) -> Iterator[Event]:
    """One for each stage whose desired count is another."""
    counts = {stage["name"]: stage.get("desired", 0) for stage in previous.get("stages") or []}
    for stage in status.stages:
        if stage.name in counts and stage.desired != counts[stage.name]:
            yield Event("Scaled", f"stage {stage.name}: from {counts[stage.name]} to {stage.desired} pods")


def has_rolled_out(old: PreviousConditions, new: NewConditions) -> bool:
    progressing = new.get("Progressing")
    was_rolling_out = reason_of(old.get("Progressing")) == "RollingOut"
    return was_rolling_out and progressing is not None and progressing.reason == "Complete"


def readiness_events(old: PreviousConditions, new: NewConditions) -> Iterator[Event]:
    """At most one: the spec became invalid, the pipeline became ready, or it got into a new trouble."""
    accepted, ready = new.get("Accepted"), new.get("Ready")
    if accepted and not is_true(accepted):
        if differs(accepted, old.get("Accepted"), by_message=True):
            yield Event(accepted.reason, accepted.message, is_warning=True)
        return
    if ready is None:
        return
    was_ready = (old.get("Ready") or {}).get("status") == "True"
    if is_true(ready):
        if not was_ready:
            yield Event("Ready", ready.message)
    elif ready.reason not in HARMLESS_REASONS and differs(ready, old.get("Ready")):
        yield Event(ready.reason, ready.message, is_warning=ready.reason not in WAITING_REASONS)


def is_true(condition: Condition | None) -> bool:
    return condition is not None and condition.status == "True"


def reason_of(condition: Mapping[str, Any] | None) -> str | None:
    return (condition or {}).get("reason")


def differs(new: Condition, old: Mapping[str, Any] | None, by_message: bool = False) -> bool:
    """Whether a condition has another reason than before, or, with `by_message`, another message."""
    has_new_message = by_message and new.message != (old or {}).get("message")
    return new.reason != reason_of(old) or has_new_message


def event_object(pipeline: Object, event: Event, now: str) -> Object:
    """The Event as the API server takes it. The same event and time have the same name. `now` is RFC 3339."""
    metadata = pipeline["metadata"]
    name = f"{metadata['name']}.{content_hash([metadata['uid'], event.reason, event.message, now])}"
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
        "type": "Warning" if event.is_warning else "Normal",
        "reason": event.reason,
        "message": event.message[:MOST_CHARACTERS],
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
