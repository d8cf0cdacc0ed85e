"""JSON with too much structure is refused before it is parsed, and text in strings is no structure."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from omni_worker.api.http import json_structure
from omni_worker.api.http.json_structure import MAX_DEPTH, MAX_MEMBERS, MAX_VALUES, structure_error

STRUCTURE = '[{"a": [1, 2]}, "\\"], ['


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[" + "1," * (2 * MAX_VALUES) + "1]", "values", id="numbers"),
        pytest.param('{"messages": [' + '"a",' * MAX_VALUES + '"a"]}', "values", id="strings"),
        pytest.param("[" + "[]," * MAX_VALUES + "[]]", "values", id="lists"),
        pytest.param("[" + "{}," * MAX_VALUES + "{}]", "values", id="objects"),
        pytest.param("{" + ",".join(f'"k{i}":0' for i in range(MAX_MEMBERS + 1)) + "}", "members", id="unknown keys"),
        pytest.param('{"a": {' + ",".join(f'"k{i}":0' for i in range(MAX_MEMBERS + 1)) + "}}", "members", id="inside"),
        pytest.param("[" * (MAX_DEPTH + 1), "nested", id="depth"),
        pytest.param('{"a":' * 100_000, "nested", id="depth of objects"),
    ],
)
def test_too_much_structure(text, says):
    assert says in structure_error(text.encode())


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"prompt": STRUCTURE * 100_000}, id="in a string"),
        pytest.param({"prompt": '\\"' * 200_000 + ",[{" * 70_000}, id="escapes"),
        pytest.param({"prompt": "\\" * 300_001, "b": [[0]] * 500}, id="backslashes"),
        pytest.param({"messages": [{"role": "user", "content": "a, b"}] * 1000}, id="a long conversation"),
        pytest.param({"tools": [{"parameters": {"properties": {f"p{i}": {} for i in range(900)}}}] * 5}, id="tools"),
    ],
)
def test_what_is_allowed(value):
    assert structure_error(json.dumps(value).encode()) is None


VALUES = some.recursive(
    some.text() | some.integers() | some.none(), lambda part: some.lists(part) | some.dictionaries(some.text(), part)
)


@given(VALUES)
def test_the_count_sees_structure_and_not_text(value):
    """With limits that are exact: neither a quotation mark nor a bracket in a string changes the depth."""

    def depth(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    text = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "STRING_PIECE", 3)
        patch.setattr(json_structure, "PIECE", 2)
        for limit in {depth(value), max(depth(value) - 1, 0)}:
            patch.setattr(json_structure, "MAX_DEPTH", limit)
            patch.setattr(json_structure, "MAX_MEMBERS", 0 if limit < depth(value) else 1_000)
            assert (structure_error(text) is None) == (limit >= depth(value))


@pytest.mark.parametrize(
    "text", [b"", b'"', b"\\", b'"\\', b"]]]", b"," * 2000, b'"' * 3001, b"\xff" * 5000 + b"," * 2000]
)
def test_what_is_no_json_is_left_to_the_parser(text):
    assert structure_error(text) is None
