"""Errors in OpenAI's shape, {"error": {message, type, param, code}}, and the handlers that give them to every route."""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

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
    return JSONResponse(body, status_code=status, headers=all_headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every failure of `app` in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.message, error.param, error.code, headers=error.headers)

    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> JSONResponse:
        return json_response(STATUS_OF_KIND[error.kind], error_body(error), error.retry_after)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
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
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or None
        if first["type"] == "json_invalid":
            return error_response(400, f"the body is not JSON: {first['ctx']['error']}")
        if first["type"] == "extra_forbidden":
            return error_response(400, f"unknown parameter: {param!r}", param, "unknown_parameter")
        if first["type"] == "missing":
            return error_response(400, f"missing parameter: {param!r}", param, "missing_parameter")
        message = first["msg"].removeprefix("Value error, ")
        return error_response(400, f"{param}: {message}" if param else message, param, "invalid_value")

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return error_response(499, "the client left before its body was complete", code="aborted")  # nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        state = request.state
        headers = {"X-Request-Id": state.client_id or state.request_id}  # this response does not pass RequestIds
        message = f"the server failed: {type(error).__name__}"
        return error_response(500, message, code="internal_error", headers=headers)


def _methods_of(page: dict[str, Any], path: str) -> set[str]:
    """The HTTP methods that the OpenAPI page lists for a path."""
    paths: dict[str, Any] = page["paths"]
    templates = [path] if path in paths else [template for template in paths if compile_path(template)[0].match(path)]
    return {method.upper() for template in templates for method in paths[template]}
