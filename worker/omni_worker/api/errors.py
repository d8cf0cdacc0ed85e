"""Errors in OpenAI's shape, {"error": {message, type, param, code}}, and the handlers that give them to every route."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from omni_worker.api.request_model import FIELD_PROBLEM
from omni_worker.errors import RequestError

STATUS_OF_KIND = {"invalid": 400, "failed": 500, "refused": 503, "busy": 429, "unavailable": 503, "aborted": 499}
CODE_OF_KIND = {
    "invalid": "invalid_value",
    "failed": "generation_failed",
    "refused": "unavailable",
    "busy": "rate_limit_exceeded",
    "unavailable": "unavailable",
    "aborted": "aborted",
}
GENERATION_PREFIXES = ("/v1/images/", "/v1/chat/", "/v1/videos", "/v1/audio/")
RETRY_SECONDS = 5.0
"""Retry-After of errors that do not predict a time."""


class ApiError(Exception):
    """An error that the API itself answers with, before or instead of a generation."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers


class SafeJsonResponse(JSONResponse):
    """JSON that can repeat whatever a client sent, such as keys that are not Unicode."""

    def render(self, content: Any) -> bytes:
        """The body. Half surrogate pairs are escaped."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


def error_response(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response to an error of the API itself. `retry_after` is in seconds."""
    error = {"message": message, "type": _error_type(status), "param": param, "code": code}
    return json_response(status, {"error": error}, retry_after, headers)


def error_body(error: RequestError) -> dict[str, Any]:
    """The body for a failed request. It names the stage if the request failed at one."""
    code, error_type = error.code or CODE_OF_KIND[error.kind], _error_type(STATUS_OF_KIND[error.kind])
    body = {"message": error.message, "type": error_type, "param": error.param, "code": code}
    return {"error": body if error.stage is None else {**body, "stage": error.stage}}


def _error_type(status: int) -> str:
    """OpenAI's type of error for a status."""
    return "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"


def json_response(
    status: int, body: dict[str, Any], retry_after: float | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A JSON response, with `Retry-After` in seconds if a later try may succeed (429 and 503)."""
    all_headers = dict(headers or {})
    if status in (429, 503):
        all_headers["Retry-After"] = str(max(1, math.ceil(RETRY_SECONDS if retry_after is None else retry_after)))
    return SafeJsonResponse(body, status_code=status, headers=all_headers)


def install_error_handlers(app: FastAPI, on_invalid: Callable[[], None] = lambda: None) -> None:
    """Answer every failure of `app` in OpenAI's shape.

    `on_invalid` is called for each generation request that is answered with 400 before it reaches the orchestrator,
    which counts all others.
    """

    def note(request: Request, status: int) -> None:
        if status == 400 and request.method == "POST" and request.url.path.startswith(GENERATION_PREFIXES):
            on_invalid()

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        note(request, error.status)
        return error_response(error.status, error.message, error.param, error.code, headers=error.headers)

    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> JSONResponse:
        if not error.is_counted:
            note(request, STATUS_OF_KIND[error.kind])
        return json_response(STATUS_OF_KIND[error.kind], error_body(error), error.retry_after)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        note(request, error.status_code)
        message, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 404:
            message = f"there is no route {request.url.path}"
        elif error.status_code == 400:
            message = f"the body cannot be read: {message}"
        elif error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}"
            allowed = set(filter(None, headers.get("Allow", "").split(", ")))
            allowed |= _methods_of(app.openapi(), request.url.path)
            allowed |= {"HEAD"} if "GET" in allowed else set()
            headers["Allow"] = ", ".join(sorted(allowed))
        return error_response(error.status_code, message, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        note(request, 400)
        return error_response(400, *validation_problem(error.errors()[0]))

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return error_response(499, "the client left before its body was complete", code="aborted")  # nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        state = request.state
        headers = {"X-Request-Id": state.client_id or state.request_id}  # this response does not pass RequestIds
        message = f"the server failed: {type(error).__name__}"
        return error_response(500, message, code="internal_error", headers=headers)


def validation_problem(error: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The message, param and code for one of pydantic's errors."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "json_invalid" and context["error"].startswith("EOF while parsing a value at line 1 column 0"):
        return "the body is empty: send a JSON object", None, "missing_parameter"
    if kind == "json_invalid" and "hex escape" in context["error"]:
        return f"the body contains half of a surrogate pair: {context['error']}", None, "invalid_value"
    if kind == "json_invalid":
        return f"the body is not JSON: {context['error']}", None, None
    param = _param(error["loc"])
    if kind == FIELD_PROBLEM:
        param = context["field"] if param is None else f"{param}.{context['field']}"
        if context["code"] == "unknown_parameter":
            return f"unknown parameter: {param!r}", param, context["code"]
        if context["code"] != "missing_parameter":
            return f"{param}: {context['message']}", param, context["code"]
    if kind == "union_tag_invalid":
        expected = context["expected_tags"].replace("(", "").replace(")", "")
        return f"{param}.type: it must be one of {expected}", f"{param}.type", "invalid_value"
    if param is None:
        return f"the body must be a JSON object: {error['msg']}", None, "invalid_value"
    if kind in ("missing", FIELD_PROBLEM):
        return f"missing parameter: {param!r}", param, "missing_parameter"
    return f"{param}: {error['msg'].removeprefix('Value error, ')}", param, "invalid_value"


def _param(location: Sequence[str | int]) -> str | None:
    """The path of a field as the client wrote it: without where it was sent, and the tags of unions, as `(text)`."""
    parts = location[1:] if location and location[0] in ("body", "query", "path") else location
    return ".".join(str(part) for part in parts if not str(part).startswith("(")) or None


def _methods_of(page: dict[str, Any], path: str) -> set[str]:
    """The HTTP methods that the OpenAPI page lists for a path."""
    paths: dict[str, Any] = page["paths"]
    templates = [path] if path in paths else [template for template in paths if compile_path(template)[0].match(path)]
    return {method.upper() for template in templates for method in paths[template]}
