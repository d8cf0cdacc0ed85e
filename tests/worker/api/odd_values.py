"""Sends odd values of every field of a route to a real head: whatever a client sends, it gets no server error."""

import json
from collections.abc import Mapping
from typing import Any

import httpx

HALF, NUL = '"\\ud83d"', '"a \\u0000b"'
ODD = [
    "null", "true", "0", "-1", "1", "0.5", "1e-320", "1e308", "NaN", "Infinity", "-Infinity", str(2**63 - 1),
    str(2**63), str(-(2**63) - 1), "1" + "0" * 400, '""', NUL, HALF, '"😀"', '"auto"', '"1x1"', '"99999x99999"', '"１"',
    '"' + "x" * 3000 + '"', '"data:,"', "[]", "[null]", f"[{HALF}]", "[[[]]]", '["text", "image"]', "{}",
    '{"type": "text"}', "{" + HALF + ": 1}",
]  # fmt: skip
"""Values as JSON. Forms send their texts, or the JSON itself."""


def client_at(port: int) -> httpx.Client:
    """A client of a real head."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)


def fields_of(client: httpx.Client, path: str, media_type: str = "application/json") -> list[str]:
    """The names of a route's fields on the OpenAPI page."""
    page = client.get("/openapi.json").json()
    schema = page["paths"][path]["post"]["requestBody"]["content"][media_type]["schema"]
    if "$ref" in schema:
        schema = page["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema["properties"])


def check_json(
    client: httpx.Client, path: str, base: Mapping[str, Any], nested: Mapping[str, str] | None = None
) -> None:
    """Send each odd value as each field of a JSON body, beside the fields of `base`.

    nested: bodies as JSON with a `%` where a value goes, by a name for messages
    """
    bodies = {}
    for field in [*fields_of(client, path), "unknown"]:
        rest = {name: value for name, value in base.items() if name != field}
        bodies[field] = json.dumps(rest)[:-1] + (", " if rest else "") + f'"{field}": %}}'
    bodies |= nested or {}
    bodies["the body"] = "%"
    for field, template in bodies.items():
        for value in ODD:
            body = template.replace("%", value)
            response = client.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
            _check(response, f"{field}: {value[:60]}")
    for content in (b"[" * 5000, b'{"prompt": "\xff"}', b"\xff\xfe{\0}\0", b'{"a": 1, "a": 1}', b'{"prompt": 1'):
        _check(client.post(path, content=content, headers={"Content-Type": "application/json"}), str(content[:20]))


def check_form(client: httpx.Client, path: str, base: Mapping[str, str], files: Mapping[str, Any]) -> None:
    """Send each odd value as each field of a form, beside the fields of `base` and these files."""
    for field in [*fields_of(client, path, "multipart/form-data"), "unknown"]:
        for value in ODD:
            text = json.loads(value) if value.startswith('"') else value
            data = {**base, field: text.encode(errors="surrogatepass")}
            parts = {name: (None, content) for name, content in data.items() if name not in files}
            _check(client.post(path, files={**parts, **files}), f"{field}: {value[:60]}")


def _check(response: httpx.Response, sent: str) -> None:
    assert response.status_code < 500, f"{sent}: {response.text[:500]}"
    assert "server_error" not in response.text, f"{sent}: {response.text[:500]}"
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"], sent
