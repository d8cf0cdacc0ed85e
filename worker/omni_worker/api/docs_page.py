"""GET /docs: the OpenAPI page for people, as plain HTML.

It is made here and runs no script, so that nothing from elsewhere runs in the origin that has the playground's API key.
"""

import base64
import hashlib
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; color-scheme: light dark }
h2 { margin-top: 2.5rem } h3 { margin-bottom: 0 } code { font-size: 0.9em; overflow-wrap: anywhere }
details { margin: 0.5rem 0; padding: 0.5rem 0.75rem; border: 1px solid #8884; border-radius: 0.4rem }
summary { cursor: pointer } .method { font-weight: 600; text-transform: uppercase; display: inline-block; width: 5rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 0.5rem; border-top: 1px solid #8884 }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Json = dict[str, Any]


def docs_routes(app: FastAPI) -> APIRouter:
    """The route of the page."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        """The page."""
        return HTMLResponse(render(app.openapi()), headers=HEADERS)

    return router


def render(page: Json) -> str:
    """An OpenAPI document as HTML."""
    groups: dict[str, list[str]] = {}
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append(_operation(path, method, operation))
    title, info = escape(page["info"]["title"]), page["info"]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>',
            f"<style>{STYLE}</style></head><body><h1>{title} {escape(info['version'])}</h1>",
            *(f"<p>{_text(part)}</p>" for part in info.get("description", "").split("\n\n")),
            '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
            *(f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in groups.items()),
            "<h2>Schemas</h2>",
            *(_named_schema(name, schema) for name, schema in page["components"]["schemas"].items()),
            "</body></html>",
        ]
    )


def _operation(path: str, method: str, operation: Json) -> str:
    """One route: its parameters, body and responses."""
    parts = [f"<p>{_text(operation.get('description', ''))}</p>"]
    if parameters := operation.get("parameters"):
        rows = [
            (f"{parameter['name']} (in {parameter['in']})", parameter["schema"], parameter.get("description", ""))
            for parameter in parameters
        ]
        parts.append(_table("Parameters", rows))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h3>Body: {escape(media_type)}</h3>{_schema(content['schema'])}")
    parts.append("<h3>Responses</h3><table>")
    for status, response in operation["responses"].items():
        media = " ".join(
            f"{escape(media_type)} {_type(content.get('schema') or content.get('itemSchema', {}))}"
            for media_type, content in response.get("content", {}).items()
        )
        parts.append(f"<tr><th>{escape(status)}</th><td>{_text(response['description'])}</td><td>{media}</td></tr>")
    parts.append("</table>")
    heading = f'<span class="method">{escape(method)}</span> <code>{escape(path)}</code>'
    return f"<details><summary>{heading} {escape(operation.get('summary', ''))}</summary>{''.join(parts)}</details>"


def _named_schema(name: str, schema: Json) -> str:
    heading = f"<summary><code>{escape(name)}</code></summary>"
    description = f"<p>{_text(schema.get('description', ''))}</p>"
    return f'<details id="{escape(name)}" open>{heading}{description}{_schema(schema)}</details>'


def _schema(schema: Json) -> str:
    """The properties of an object, or the type of anything else."""
    if "properties" not in schema:
        return f"<p>{_type(schema)}</p>"
    required = schema.get("required", ())
    rows = [
        (f"{name} (required)" if name in required else name, field, field.get("description", ""))
        for name, field in schema["properties"].items()
    ]
    return _table("", rows)


def _table(heading: str, rows: list[tuple[str, Json, str]]) -> str:
    """Names, types and descriptions."""
    body = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(schema)}</td><td>{_text(description)}</td></tr>"
        for name, schema, description in rows
    )
    return (f"<h3>{escape(heading)}</h3>" if heading else "") + f"<table>{body}</table>"


def _type(schema: Json) -> str:
    """The type of a value in short, with links to named schemas."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(choice) for choice in schema[key])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum") or [schema["const"]]
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [f"{name} {schema[name]}" for name in ("minimum", "maximum", "maxLength", "pattern") if name in schema]
    return escape(", ".join([str(schema.get("type", "anything")), *bounds]))


def _text(text: str) -> str:
    """Text whose `code` is marked."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))
