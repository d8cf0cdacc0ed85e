"""The OpenAPI page: what FastAPI derives from the routes, completed with what it cannot know."""

import re
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.routing import BaseRoute

from omni_worker.api.access.keys import PUBLIC_PATHS
from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import ErrorResponse

REQUEST_ID = {
    "description": "The client's own `X-Request-Id` if it sent a valid one, and otherwise the request's id.",
    "schema": {"type": "string"},
}
RETRY_AFTER = {"description": "Seconds until it is worth trying again.", "schema": {"type": "integer", "minimum": 1}}
ABOUT = """The official `openai` client works unchanged. Our own fields ride in its `extra_body`.

Every error is `{"error": {"message", "type", "param", "code"}}`, and names the `stage` where it happened at one. Every
answer has an `X-Request-Id`. A client that goes away has its request aborted."""


def stream_response(event: type[BaseModel], description: str) -> dict[str, Any]:
    """The 200 response of a route that can answer with a stream; the data of its events has the schema `event`."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": event.model_json_schema()}
    schema = {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}
    return {"description": description, "content": {"text/event-stream": {"itemSchema": schema}}}


def unsupported_route(router: APIRouter, path: str, reason: str, method: str = "POST") -> None:
    """Add a route of OpenAI's API that this server does not support. It answers 400 with the reason."""

    async def refuse() -> None:
        raise ApiError(400, reason, code="unsupported")

    refuse.__doc__ = f"Refused: {reason}."
    responses: dict[int | str, dict[str, Any]] = {400: {"model": ErrorResponse, "description": "Always."}}
    names = re.findall(r"{(\w+)}", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    router.add_api_route(
        path,
        refuse,
        methods=[method],
        responses=responses,
        status_code=400,
        response_model=ErrorResponse,
        openapi_extra={"parameters": parameters},
    )


def install_openapi(app: FastAPI, probes: list[BaseRoute], has_keys: bool) -> None:
    """Make `app` serve the completed page."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = complete_page(original(), probes, has_keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def complete_page(page: dict[str, Any], probes: list[BaseRoute], has_keys: bool) -> dict[str, Any]:
    """`page` with headers, probes and API keys, and without status 422, which this server never answers."""
    page["info"]["description"] = ABOUT
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    for path, operations in page["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if responses.pop("422", None) is not None:
                responses.setdefault("400", {"description": "The request is wrong.", "content": error})
            if has_keys and path not in PUBLIC_PATHS:
                operation["security"] = [{"key": []}]
                responses["401"] = {"description": "No key, or none that is known.", "content": error}
            for status, response in responses.items():
                response.setdefault("headers", {})["X-Request-Id"] = REQUEST_ID
                if status in ("429", "503"):
                    response["headers"]["Retry-After"] = RETRY_AFTER
                if status == "401":
                    response["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}}
    for route in probes:
        path = str(getattr(route, "path"))  # noqa: B009 - mypy knows no path of a BaseRoute
        page["paths"][path] = {"get": _probe_operation(path)}
    if has_keys:
        page.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        page["components"]["schemas"].pop(name, None)
    page["paths"] = _move_definitions(page["paths"], page["components"]["schemas"])
    return page


def _move_definitions(node: Any, definitions: dict[str, Any]) -> Any:
    """A copy of a node of the page, whose schemas' local `$defs` have been moved to the page's `definitions`."""
    if isinstance(node, list):
        return [_move_definitions(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    for name, definition in node.pop("$defs", {}).items():
        definitions[name] = _move_definitions(definition, definitions)
    copy = {name: _move_definitions(value, definitions) for name, value in list(node.items())}
    if isinstance(reference := copy.get("$ref"), str):
        copy["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
    return copy


def _probe_operation(path: str) -> dict[str, Any]:
    """The description of a probe or of /metrics."""
    if path == "/metrics":
        text = {"text/plain": {"schema": {"type": "string"}}}
        responses = {"200": {"description": "All metrics, in Prometheus' text format.", "content": text}}
    else:
        reason = {"status": {"type": "string"}, "reason": {"type": "string"}}
        state = {"application/json": {"schema": {"type": "object", "properties": reason, "required": ["status"]}}}
        responses = {
            "200": {"description": "All is well.", "content": state},
            "503": {"description": "Not now; with the reason.", "content": state},
        }
    for response in responses.values():
        response["headers"] = {"X-Request-Id": REQUEST_ID}
    return {"tags": ["probes"], "operationId": f"get{path.replace('/', '_')}", "responses": responses}
