"""The CustomResourceDefinition, generated from the types of spec and status, and from the rules. Pure.

`make crd` writes the file. The schema is structural and free of `$ref`. Without its rules, Kubernetes 1.20 accepts it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from omni_operator.crd.rules.every_rule import RULES
from omni_operator.crd.rules.rule import Validation
from omni_operator.crd.spec.pipeline import GROUP, KIND, PLURAL, VERSION, Metadata, Spec
from omni_operator.crd.status_types import Status

VALIDATIONS = "x-kubernetes-validations"
RULES_SINCE = 30
"""The 30 of Kubernetes 1.30. Older servers either lack parts of CEL, or check unchanged fields too, so that a stricter
rule would keep an object that breaks it from being deleted."""
# Keywords of JSON Schema that a structural schema does not have, or that say nothing here.
DROPPED = ("title", "$defs", "additionalProperties", "propertyNames", "examples")
# Lists whose items have names. Patches merge them by name, and the API server rejects duplicates.
LIST_KEYS: Mapping[tuple[str, ...], str] = {
    ("spec", "stages"): "name",
    ("spec", "stages", "items", "env"): "name",
    ("spec", "stages", "items", "loras"): "name",
    ("spec", "head", "env"): "name",
    ("status", "conditions"): "type",
    ("status", "stages"): "name",
}

UNOBSERVED = {"observedGeneration": -1}
"""The status of a new object. Without it, tools that use kstatus would call an object current that nobody has seen."""

COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether the pipeline serves as wanted.", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is or is not ready.", 0),
    ("Replicas", "integer", ".status.pods", "Headless pods that exist.", 0),
    ("Serving", "integer", ".status.readyReplicas", "Headless pods that serve.", 0),
    ("Model", "string", ".spec.model.source", "The model that is served.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the pipeline was made.", 0),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', "Why, in words.", 1),
)


def definition(minor: int = RULES_SINCE) -> dict[str, Any]:
    """The whole CustomResourceDefinition, for an API server of Kubernetes 1.MINOR."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["op"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [version() if minor >= RULES_SINCE else without_rules(version())],
        },
    }


def version() -> dict[str, Any]:
    """The only version of the definition."""
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "A generative model served as a pipeline of stages.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object", "properties": {"name": name_schema()}},
                    "spec": schema_of(Spec, "spec"),
                    "status": {**schema_of(Status, "status"), "default": UNOBSERVED},
                },
            }
        },
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": description, "priority": priority}
            for name, kind, path, description, priority in COLUMNS
        ],
    }


def without_rules(node: Any) -> Any:
    """A schema without the rules in CEL."""
    if isinstance(node, list):
        return [without_rules(item) for item in node]
    if isinstance(node, Mapping):
        return {key: without_rules(below) for key, below in node.items() if key != VALIDATIONS}
    return node


def name_schema() -> dict[str, Any]:
    """The schema of metadata.name, the only part of the metadata that a definition may restrict."""
    return own_keywords(Metadata.model_json_schema()["properties"]["name"], ("metadata", "name"))


def schema_of(model: type[BaseModel], name: str) -> dict[str, Any]:
    """The structural schema of a type that is at the key `name` of the object."""
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}), (name,))


def structural(node: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A node of pydantic's JSON Schema, and all nodes below it, as a structural schema. `path`: the keys above it."""
    node = resolved(node, definitions, path)
    result = own_keywords(node, path)
    if "properties" in node:
        result["properties"] = structural_properties(node, definitions, path)
    if isinstance(node.get("additionalProperties"), Mapping):  # any key; `false` is the API server's default
        result["additionalProperties"] = structural(node["additionalProperties"], definitions, (*path, "*"))
    if "items" in node:
        result["items"] = structural(node["items"], definitions, (*path, "items"))
        if key := LIST_KEYS.get(path):
            result |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    if rules := VALIDATIONS_AT.get(path):
        result[VALIDATIONS] = [cel_rule(validation) for validation in rules]
    if path[0] == "status":
        result.pop("default", None)
    return result


def by_path(validations: Iterable[Validation]) -> dict[tuple[str, ...], list[Validation]]:
    """The validations of each part of the object, by the keys above it."""
    result: dict[tuple[str, ...], list[Validation]] = {}
    for validation in validations:
        result.setdefault(tuple(validation.part.replace("[]", ".items").split(".")), []).append(validation)
    return result


VALIDATIONS_AT = by_path(validation for rule in RULES for validation in rule.validations)


def cel_rule(validation: Validation) -> dict[str, Any]:
    """A validation as the definition has it."""
    field = {"fieldPath": validation.field} if validation.field else {}
    return sparing({"rule": validation.expression, "message": validation.message, **field})


def sparing(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule that spares an object that broke it before, which can then still be edited and deleted.

    The API server itself spares a part that did not change, but with a warning, and never a part with a template, which
    has no schema. A rule about changes stays as it is.
    """
    if "oldSelf" in rule["rule"]:
        return dict(rule)
    before = re.sub(r"\bself\b", "oldSelf.value()", rule["rule"])
    spared = f"({rule['rule']}) || oldSelf.hasValue() && !({before})"
    return {**rule, "rule": spared, "optionalOldSelf": True}


def resolved(node: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """The node with its `$ref` replaced by the definition, and with `X` for a choice of `X` and null.

    Raises TypeError for any other choice: a structural schema has none.
    """
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            target = definitions[node["$ref"].rpartition("/")[2]]
            node = {**target, **without(node, "$ref")}
        else:
            kinds = [kind for kind in node["anyOf"] if kind != {"type": "null"}]
            if len(kinds) != 1:
                raise TypeError(f"{'.'.join(path)}: a structural schema cannot choose between {kinds}")
            node = {**kinds[0], **without(node, "anyOf")}
    return node


def without(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != key}


def own_keywords(node: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The keywords of one node, without those that a structural schema does not have or that say nothing."""
    result = {key: value for key, value in node.items() if key not in DROPPED}
    if VALIDATIONS in result:
        result[VALIDATIONS] = [sparing(rule) for rule in result[VALIDATIONS]]
    if "const" in result:
        result["enum"] = [result.pop("const")]
    for bound in ("minimum", "maximum"):  # OpenAPI 3.0 says with a truth value that a bound is excluded
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in result:
            result |= {bound: result[exclusive], exclusive: True}
    if result.get("default", ...) in (None, []):
        del result["default"]
    if result.get("type") == "integer":
        result["format"] = "int64" if path[-1].endswith("Generation") else "int32"
    return result


def structural_properties(
    node: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...]
) -> dict[str, Any]:
    required = node.get("required", ())
    return {
        key: with_default(below, structural(below, definitions, (*path, key)), key in required)
        for key, below in node["properties"].items()
    }


def with_default(node: Mapping[str, Any], schema: dict[str, Any], is_required: bool) -> dict[str, Any]:
    """The schema of a property, with `{}` as default if the property is a mapping of defaults.

    The API server then fills in its keys. A property with the default null has no such default: it may stay absent.
    """
    if "properties" in schema and not is_required and "default" not in node:
        return {**schema, "default": {}}
    return schema
