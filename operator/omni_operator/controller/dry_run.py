"""Asks the API server what it thinks of the pods that a user's templates make, before anything is changed.

What a template may hold is for the server to say. So a Deployment that is to be applied, and has such a template, is
applied first without being written; what the server has against it is told as a problem of the template's own field.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omni_operator.crd.pod_template import MERGE_KEYS
from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.planning.plan import Plan, reference
from omni_operator.planning.topology.records import Topology

KIND = "Deployment"
PODS = "spec.template."
# How server-side apply names a field that it cannot read: .spec.template.spec.containers[name="omni"].image: expected …
UNTYPED = re.compile(r"\.(spec\.template\.[^\s:]+(?:\"[^\"]*\"\][^\s:]*)*): (.+)")
STEP = re.compile(r"([^.\[\]]+)(?:\[([^\]]+)\])?")


def rehearse(cluster: Cluster, pipeline: OmniPipeline, topology: Topology, plan: Plan) -> None:
    """Raises InvalidSpec where the server would refuse a pod for what the user's template says."""
    templates = user_templates(pipeline, topology)
    found: list[Problem] = []
    for child in plan.apply:
        kind, name = reference(child)
        if kind != KIND or name not in templates:
            continue
        path, template = templates[name]
        try:
            cluster.apply(
                cluster.child_resources[kind], plan.bound(child), (kind, name) in plan.adopted, is_dry_run=True
            )
        except ApiError as error:
            found += problems(error, child["spec"]["template"], template, path)
    if found:
        raise InvalidSpec(found)


def user_templates(pipeline: OmniPipeline, topology: Topology) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """By the name of the Deployment: where its template is in the spec, and what it says. Only those that say much."""
    stages = {stage.name: index for index, stage in enumerate(pipeline.spec.stages)}
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for process in (topology.head, *topology.replicas):
        where = "spec.head" if process.is_head else f"spec.stages[{stages[process.stage.name]}]"
        template = pipeline.spec.head.template if process.is_head else process.stage.template
        if template:
            found[process.name] = f"{where}.template", template
    return found


def problems(error: ApiError, merged: Mapping[str, Any], template: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """What of a refusal is about the pods, each at the field of the user's template that it speaks of."""
    remedy = f"correct it, or remove it from {path}"
    found = [(field.removeprefix(PODS), said) for field, said in told(error) if field.startswith(PODS)]
    for field, said in found:
        where, value = own_field(field, merged, template)
        shown = "" if value is None else f"{json.dumps(value)} "
        yield Problem(f"{path}.{where}", f"{shown}is refused by the API server: {said}; {remedy}")
    if error.is_unreadable and not found:
        yield Problem(path, f"makes pods that the API server cannot read: {error}; correct what it speaks of")


def told(error: ApiError) -> Sequence[tuple[str, str]]:
    """Fields of the object, and what the server says of each."""
    if error.causes:
        return [(field, message) for field, _, message in error.causes]
    return [(field, message.partition(", got ")[0].strip()) for field, message in UNTYPED.findall(str(error))]


def own_field(field: str, merged: Mapping[str, Any], template: Mapping[str, Any]) -> tuple[str, Any]:
    """A field of the merged pod as the user would find it in the template, where items stand at other places; and what
    the template says there."""
    there: Any = merged
    own: Any = template
    path = ""
    for name, place in STEP.findall(field):
        there, own = below(there, name), below(own, name)
        path += f".{name}"
        if place:
            index = place_of(there, place)
            there = there[index] if index is not None else None
            if name in MERGE_KEYS and isinstance(there, Mapping):
                index = place_of(own, f"{MERGE_KEYS[name]}={there.get(MERGE_KEYS[name])}")
            own = own[index] if isinstance(own, list) and index is not None and index < len(own) else None
            path += f"[{place if index is None else index}]"
    return path.removeprefix("."), own


def below(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def place_of(items: Any, place: str) -> int | None:
    """Where a list has the item that is meant: by its number, or by what it says under its first key."""
    if not isinstance(items, list):
        return None
    if place.isdigit():
        return int(place) if int(place) < len(items) else None
    key, _, value = place.partition(",")[0].partition("=")
    said = [str(one.get(key)) if isinstance(one, Mapping) else None for one in items]
    return said.index(value.strip('"')) if value.strip('"') in said else None
