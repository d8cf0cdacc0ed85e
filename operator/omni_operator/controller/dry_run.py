"""Asks the API server to validate pods that contain a user's template, before the pass changes anything.

Only the server knows what a pod template may contain. So a Deployment that includes such a template is applied as a dry
run first, and each rejection is reported as a problem of the field in the user's template.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.crd.pod_template import MERGE_KEYS
from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.planning.cluster_features import missing_image_volumes
from omni_operator.planning.manifests.pod import settings_of
from omni_operator.planning.plan import Plan, reference
from omni_operator.planning.topology.records import Topology

KIND = "Deployment"
POD_TEMPLATE_PREFIX = "spec.template."
# How server-side apply names a field whose type is wrong: .spec.template.spec.containers[name="omni"].image: expected …
WRONG_TYPE = re.compile(r"\.(spec\.template\.[^\s:]+(?:\"[^\"]*\"\][^\s:]*)*): (.+)")
# The typed fields of heads and stages, by the part of a pod that they make.
TYPED_FIELDS = {
    r"metadata\.labels": "podLabels",
    r"metadata\.annotations": "podAnnotations",
    r"spec\.affinity": "affinity",
    r"spec\.tolerations": "tolerations",
    r"spec\.topologySpreadConstraints": "topologySpreadConstraints",
    r"spec\.containers\[[^]]*\]\.env": "env",
    r"spec\.containers\[[^]]*\]\.resources": "resources",
}
PATH_STEP = re.compile(r"([^.\[\]]+)(?:\[([^\]]+)\])?")


def dry_run(cluster: Cluster, pipeline: OmniPipeline, topology: Topology, plan: Plan) -> None:
    """Raises InvalidSpec if the server would reject a pod because of the user's settings. Changes nothing."""
    templates = user_templates(pipeline, topology)
    problems: list[Problem] = []
    for child in plan.apply:
        kind, name = reference(child)
        if kind != KIND or name not in templates:
            continue
        path, template, typed = templates[name]
        is_adopted = (kind, name) in plan.adopted
        try:
            cluster.apply(cluster.child_resources[kind], plan.with_live_uid(child), force=is_adopted, is_dry_run=True)
        except ApiError as error:
            if missing_image_volumes(child, str(error)):
                continue  # the write itself says so
            problems += template_problems(error, child["spec"]["template"], template, path, typed)
    if problems:
        raise InvalidSpec(problems)


def user_templates(pipeline: OmniPipeline, topology: Topology) -> dict[str, tuple[str, Object, frozenset[str]]]:
    """By Deployment name: the path of its template in the spec, the template, and the typed fields beside it that are
    set. Leaves out pods without settings."""
    stages = {stage.name: index for index, stage in enumerate(pipeline.spec.stages)}
    templates: dict[str, tuple[str, Object, frozenset[str]]] = {}
    for process in (topology.head, *topology.replicas):
        owner = "spec.head" if process.is_head else f"spec.stages[{stages[process.stage.name]}]"
        settings = settings_of(pipeline, process)
        given = settings.model_dump(by_alias=True, exclude_defaults=True)
        typed = frozenset(given) & {*TYPED_FIELDS.values()}
        if settings.template or typed:
            templates[process.name] = f"{owner}.template", settings.template, typed
    return templates


def template_problems(
    error: ApiError, merged: Object, template: Object, path: str, typed: Collection[str] = ()
) -> Iterator[Problem]:
    """The problems of a user's template that a rejected Deployment shows; none if the rejection is about other fields.

    `merged`: the pod template that the server saw; `path`: the path of the user's template in the spec.
    `typed`: the typed fields beside the template that are set.
    """
    remedy, owner = f"correct it, or remove it from {path}", path.removesuffix(".template")
    pod_fields = [
        (field.removeprefix(POD_TEMPLATE_PREFIX), message)
        for field, message in field_messages(error)
        if field.startswith(POD_TEMPLATE_PREFIX)
    ]
    for field, message in pod_fields:
        user_field, value = field_in_template(field, merged, template)
        if value is None and (name := typed_field(field)) in typed:
            yield Problem(f"{owner}.{name}", f"is refused by the API server: {message}; correct it, or remove it")
            continue
        shown_value = "" if value is None else f"{json.dumps(value)} "
        yield Problem(f"{path}.{user_field}", f"{shown_value}is refused by the API server: {message}; {remedy}")
    if error.is_unreadable and not pod_fields:
        yield Problem(path, f"makes pods that the API server cannot read: {error}; correct the field that it names")


def typed_field(field: str) -> str | None:
    """The field of a head or stage that makes a field of its pods; None if there is none."""
    return next((name for pattern, name in TYPED_FIELDS.items() if re.match(pattern, field)), None)


def field_messages(error: ApiError) -> Sequence[tuple[str, str]]:
    """The object's fields that the error names, each with the server's message."""
    if error.causes:
        return [(field, message) for field, _, message in error.causes]
    return [(field, message.partition(", got ")[0].strip()) for field, message in WRONG_TYPE.findall(str(error))]


def field_in_template(field: str, merged: Object, template: Object) -> tuple[str, Any]:
    """The path of a field of the merged pod in the user's template, and its value there; None if it has none.

    List items can have other indices in the template than in the merged pod, so they are found by their merge keys.
    """
    in_merged: Any = merged
    in_template: Any = template
    path = ""
    for name, selector in PATH_STEP.findall(field):
        in_merged, in_template = member(in_merged, name), member(in_template, name)
        path += f".{name}"
        if selector:
            index = index_of(in_merged, selector)
            in_merged = in_merged[index] if index is not None else None
            if name in MERGE_KEYS and isinstance(in_merged, Mapping):
                index = index_of(in_template, f"{MERGE_KEYS[name]}={in_merged.get(MERGE_KEYS[name])}")
            has_item = isinstance(in_template, list) and index is not None and index < len(in_template)
            in_template = in_template[index] if has_item else None
            path += f"[{selector if index is None else index}]"
    return path.removeprefix("."), in_template


def member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def index_of(items: Any, selector: str) -> int | None:
    """The index of the item that a selector names: by a number, or by the value of its first key (`name="omni"`)."""
    if not isinstance(items, list):
        return None
    if selector.isdigit():
        return int(selector) if int(selector) < len(items) else None
    key, _, value = selector.partition(",")[0].partition("=")
    values = [str(one.get(key)) if isinstance(one, Mapping) else None for one in items]
    return values.index(value.strip('"')) if value.strip('"') in values else None
