"""The one page that tells of every route: what FastAPI finds by itself, and what it cannot know."""

import re
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.routing import BaseRoute

from omni_worker.api.errors import ApiError
from omni_worker.api.guards import FREE
from omni_worker.api.schemas import ErrorResponse

REQUEST_ID = {
    "description": "The request's id: the client's own `X-Request-Id` where it sent a sound one.",
    "schema": {"type": "string"},
}
RETRY_AFTER = {"description": "Seconds until it is worth trying again.", "schema": {"type": "integer", "minimum": 1}}
ABOUT = """The official `openai` client works unchanged. Our own fields ride in its `extra_body`.

Every error is `{"error": {"message", "type", "param", "code"}}`, and names the `stage` where it happened at one. Every
answer has an `X-Request-Id`. A client that goes away has its request aborted."""


def streaming(kind: type[BaseModel], description: str) -> dict[str, Any]:
    """What a route answers that may do so with a stream of events of this kind."""
    of_item = {"type": "string", "contentMediaType": "application/json", "contentSchema": kind.model_json_schema()}
    schema = {"type": "object", "properties": {"event": {"type": "string"}, "data": of_item}, "required": ["data"]}
    return {"description": description, "content": {"text/event-stream": {"itemSchema": schema}}}


def refused_route(router: APIRouter, path: str, reason: str, method: str = "POST") -> None:
    """A route that OpenAI has and this server has not: whoever calls it is told why."""

    async def refuse() -> None:
        raise ApiError(400, reason, code="unsupported")

    refuse.__doc__ = f"Refused: {reason}."
    answers: dict[int | str, dict[str, Any]] = {400: {"model": ErrorResponse, "description": "Always."}}
    names = re.findall(r"{(\w+)}", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    router.add_api_route(
        path,
        refuse,
        methods=[method],
        responses=answers,
        status_code=400,
        response_model=ErrorResponse,
        openapi_extra={"parameters": parameters},
    )


def describe(app: FastAPI, probes: list[BaseRoute], has_keys: bool) -> None:
    """Have `app` describe itself by `described`."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = described(own(), probes, has_keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def described(page: dict[str, Any], probes: list[BaseRoute], has_keys: bool) -> dict[str, Any]:
    """`page` with headers, probes and keys, and without the 422 that this server never answers."""
    page["info"]["description"] = ABOUT
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    for path, methods in page["paths"].items():
        for operation in methods.values():
            answers = operation["responses"]
            if answers.pop("422", None) is not None:
                answers.setdefault("400", {"description": "The request is wrong.", "content": error})
            if has_keys and path not in FREE:
                operation["security"] = [{"key": []}]
                answers["401"] = {"description": "No key, or none that is known.", "content": error}
            for status, answer in answers.items():
                answer.setdefault("headers", {})["X-Request-Id"] = REQUEST_ID
                if status in ("429", "503"):
                    answer["headers"]["Retry-After"] = RETRY_AFTER
                if status == "401":
                    answer["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}}
    for route in probes:
        path = str(getattr(route, "path"))  # noqa: B009 - mypy knows no path of a BaseRoute
        page["paths"][path] = {"get": _probe(path)}
    if has_keys:
        page.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        page["components"]["schemas"].pop(name, None)
    page["paths"] = _with_definitions_together(page["paths"], page["components"]["schemas"])
    return page


def _with_definitions_together(part: Any, definitions: dict[str, Any]) -> Any:
    """A part of the page whose schemas' own definitions have gone among those of the page."""
    if isinstance(part, list):
        return [_with_definitions_together(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    for name, definition in part.pop("$defs", {}).items():
        definitions[name] = _with_definitions_together(definition, definitions)
    kept = {name: _with_definitions_together(value, definitions) for name, value in list(part.items())}
    if isinstance(reference := kept.get("$ref"), str):
        kept["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
    return kept


def _probe(path: str) -> dict[str, Any]:
    if path == "/metrics":
        text = {"text/plain": {"schema": {"type": "string"}}}
        answers = {"200": {"description": "All metrics, in Prometheus' text format.", "content": text}}
    else:
        reason = {"status": {"type": "string"}, "reason": {"type": "string"}}
        state = {"application/json": {"schema": {"type": "object", "properties": reason, "required": ["status"]}}}
        answers = {
            "200": {"description": "All is well.", "content": state},
            "503": {"description": "Not now; with the reason.", "content": state},
        }
    for answer in answers.values():
        answer["headers"] = {"X-Request-Id": REQUEST_ID}
    return {"tags": ["probes"], "operationId": f"get{path.replace('/', '_')}", "responses": answers}
