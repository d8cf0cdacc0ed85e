"""What an API server finds wrong with a manifest: the rules in CEL of the schema, evaluated without a server.

The library knows less of CEL than the API server. `tests/kubernetes/apiserver/test_rules.py` asks the server itself.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import cel

from omni_operator.crd.quantities import parse_quantity
from omni_operator.crd.schema import VALIDATIONS, version

ROOT: dict[str, Any] = version()["schema"]["openAPIV3Schema"]


def violations(manifest: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The message of each rule that a manifest breaks, by path. `before`: the object as it was until now."""
    stored = defaulted(dict(manifest), ROOT)
    return dict(_violations(stored, defaulted(dict(before), ROOT) if before else None, ROOT, ""))


def defaulted(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value as the API server stores it: with the defaults of the schema, without nulls."""
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    result = {key: below for key, below in value.items() if below is not None or key not in schema["properties"]}
    for key, below in schema["properties"].items():
        if key not in result and "default" in below:
            result[key] = below["default"]
        if key in result:
            result[key] = defaulted(result[key], below)
    return result


def _violations(value: Any, before: Any, schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get(VALIDATIONS, ()):
        if not holds(rule, value, before):
            yield path + rule.get("fieldPath", ""), rule["message"]
    if isinstance(value, list) and "items" in schema:
        old = {item["name"]: item for item in before or () if isinstance(item, dict) and "name" in item}
        for index, item in enumerate(value):
            same = old.get(item.get("name")) if isinstance(item, dict) else None
            yield from _violations(item, same, schema["items"], f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, below in value.items():
            if key in schema.get("properties", {}):
                old_below = (before or {}).get(key)
                yield from _violations(below, old_below, schema["properties"][key], f"{path}.{key}".lstrip("."))


def holds(rule: Mapping[str, Any], value: Any, before: Any) -> bool:
    old = before
    if rule.get("optionalOldSelf"):
        old = cel.OptionalValue.none() if before is None else cel.OptionalValue.of(before)
    elif before is None and "oldSelf" in rule["rule"]:
        return True  # it is about changes
    context = cel.Context({"self": value, "oldSelf": old})
    context.add_function("quantity", quantity)
    context.add_function("compareTo", lambda one, other: (one > other) - (one < other))
    return compiled(rule["rule"]).execute(context) is True


compiled = functools.cache(cel.compile)


def quantity(text: str) -> float:
    value = parse_quantity(text)
    assert value is not None
    return float(value)
