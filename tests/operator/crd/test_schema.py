"""The CRD: the committed file is the generated one, and its schema accepts what the types accept."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from hack import crd
from omni_operator.crd.schema import RULES_SINCE, VALIDATIONS, definition, version, without_rules
from tests.operator.crd.test_parsing import ACCEPTED
from tests.operator.crd.test_validation_errors import REFUSED_BY_TYPES
from tests.operator.edits import edited

UNTYPED = ("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")
FORBIDDEN = ("$ref", "title", "const", "anyOf", "oneOf", "propertyNames")
# The API server prunes unknown keys (kubectl rejects them), and checks kind and version itself.
BY_THE_SERVER = (
    "a misspelt key",
    "a key in snake case",
    "a key that resembles none",
    "a misspelt limit",
    "another kind",
    "another version",
)


def schemas(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema below one, with its path."""
    yield path, node
    for key, below in node.get("properties", {}).items():
        yield from schemas(below, f"{path}.{key}")
    if "items" in node:
        yield from schemas(node["items"], f"{path}[]")


def root() -> dict[str, Any]:
    schema: dict[str, Any] = version()["schema"]["openAPIV3Schema"]
    return schema


@pytest.mark.parametrize("file", crd.FILES, ids=lambda file: file.parts[-3])
def test_the_committed_file_is_what_the_types_generate(file: Any) -> None:
    assert file.read_text() == crd.text(), "run `make crd`"


def test_check_finds_nothing_to_do_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_the_file_is_one_yaml_document() -> None:
    assert yaml.safe_load(crd.text()) == definition()


def test_the_schema_is_structural_and_old_enough_for_every_cluster() -> None:
    for path, node in schemas(root()):
        assert not [key for key in FORBIDDEN if key in node], path
        assert {node.get(f"exclusive{bound}", True) for bound in ("Minimum", "Maximum")} == {True}, path
        assert any(key in node for key in UNTYPED) or "type" in node, path


def test_whatever_a_rule_may_look_at_has_a_largest_size() -> None:
    """The API server refuses rules that could cost too much, and supposes the worst of what has no limit."""
    for path, node in schemas(root()["properties"]["spec"]):
        is_text = node.get("type") == "string" or node.get("x-kubernetes-int-or-string")
        assert not is_text or "maxLength" in node or "enum" in node, path
        assert node.get("type") != "array" or "maxItems" in node, path
        assert "additionalProperties" not in node or "maxProperties" in node, path


def test_no_field_is_of_two_types() -> None:
    untyped = [path for path, node in schemas(root()) if "type" not in node]
    assert sorted(untyped) == sorted(
        f".spec.stages[].{field}" for field in ("rollout.maxUnavailable", "rollout.maxSurge", "scheduling.maxNumSeqs")
    ), "only numbers that may be words, as Kubernetes itself has them"


def test_an_old_server_gets_the_same_definition_without_rules() -> None:
    old, new = definition(RULES_SINCE - 1), definition(RULES_SINCE)
    assert VALIDATIONS not in str(old)
    assert VALIDATIONS in str(new)
    assert without_rules(new) == old
    assert definition() == new


def test_keys_are_free_only_where_no_key_is_named() -> None:
    for path, node in schemas(root()):
        assert "additionalProperties" not in node or ("properties" not in node and node["additionalProperties"]), path


def test_the_file_is_small_enough_for_every_cluster() -> None:
    """`kubectl apply` keeps the object in an annotation, and all annotations together may have 256 KiB."""
    assert len(json.dumps(definition())) < 200_000


def test_every_field_of_the_spec_is_described() -> None:
    undescribed = [path for path, node in schemas(root()) if path.startswith(".spec") and "description" not in node]
    assert [path for path in undescribed if not path.endswith("[]")] == []


def test_a_stage_without_a_count_gets_none_from_the_schema() -> None:
    stage = root()["properties"]["spec"]["properties"]["stages"]["items"]["properties"]
    assert "default" not in stage["replicas"]
    assert "default" not in stage["accelerator"]


def test_scale_and_status_are_subresources() -> None:
    assert version()["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"
    assert version()["subresources"]["status"] == {}


@pytest.mark.parametrize("row", [row for row in REFUSED_BY_TYPES if row not in BY_THE_SERVER])
def test_the_schema_refuses_what_the_types_refuse(digits: dict[str, Any], row: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(edited(digits, REFUSED_BY_TYPES[row][0]), as_json_schema(root()))


@pytest.mark.parametrize("row", [row for row in ACCEPTED if not row.startswith("null")])
def test_the_schema_accepts_what_the_types_accept(digits: dict[str, Any], row: str) -> None:
    jsonschema.validate(edited(digits, ACCEPTED[row]), as_json_schema(root()))


def as_json_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema as plain JSON Schema."""
    result = dict(node)
    if result.pop("x-kubernetes-int-or-string", False):
        result["type"] = ["integer", "string"]
    for bound in ("minimum", "maximum"):
        if result.pop(f"exclusive{bound.capitalize()}", False):
            result[f"exclusive{bound.capitalize()}"] = result.pop(bound)
    if "additionalProperties" in result:
        result["additionalProperties"] = as_json_schema(result["additionalProperties"])
    if "properties" in result:
        result["properties"] = {key: as_json_schema(below) for key, below in result["properties"].items()}
    if "items" in result:
        result["items"] = as_json_schema(result["items"])
    return result
