"""Bodies in JSON, and forms with files: read, validated by a schema, and described by it in OpenAPI."""

import asyncio
import codecs
import re
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile

from omni_worker.api.access.clients import ANY_TENANT
from omni_worker.api.access.keys import sender
from omni_worker.api.errors import ApiError
from omni_worker.api.extra_args import with_images
from omni_worker.api.http.json_structure import structure_error
from omni_worker.api.request_model import RequestModel
from omni_worker.api.schemas import MAX_ARGUMENT_NAME, GenerationBody

EMPTY = {"type": "string", "maxLength": 0}
MAX_FILES, MAX_FIELDS, MAX_FIELD_BYTES = 32, 100, 4 * 2**20

EXTRA_FILE = re.compile(rf"extra_args\[([A-Za-z_][A-Za-z0-9_]{{0,{MAX_ARGUMENT_NAME - 1}}})\]")
HALF_PAIR = re.compile("[\ud800-\udfff]")
SHORT_BYTES = 16 << 10
"""Shorter JSON bodies are validated at once, without a thread."""
_validating = ThreadPoolExecutor(2, thread_name_prefix="json")

Body = TypeVar("Body", bound=RequestModel)
Files = dict[str, list[bytes]]
"""The contents of files, by the name of their field."""


async def read_form(
    request: Request, schema: type[Body], file_fields: frozenset[str], url_fields: Collection[str] = ()
) -> tuple[Body, Files]:
    """The fields of a form, validated by `schema`, and its files. Files of `name[]` count as files of `name`.

    url_fields: fields with the URL of a file; their values are returned with the files, as bytes

    Raises ApiError if the body is not a form or has unexpected files, and RequestValidationError, naming the field.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(400, "the body must be multipart/form-data", code="invalid_content_type")
    fields: dict[str, str] = {}
    uploads: Files = {}
    extra_images: Files = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if isinstance(value, UploadFile) and name in file_fields:
                uploads.setdefault(name, []).append(await value.read())
            elif isinstance(value, UploadFile) and (argument := EXTRA_FILE.fullmatch(name)):
                extra_images.setdefault(argument[1], []).append(await value.read())
            elif isinstance(value, UploadFile):
                raise ApiError(400, f"{name}: not a file that this route takes", name, "unknown_parameter")
            elif name in file_fields:
                raise ApiError(400, f"{name}: send it as a file, with a file name", name, "invalid_value")
            elif key in url_fields:
                uploads.setdefault(key, []).append(value.encode(errors="surrogatepass"))
            elif key in fields:
                raise ApiError(400, f"{key}: given twice", key, "invalid_value")
            else:
                fields[key] = value
    for name, value in fields.items():
        if not (name + value).isprintable() and HALF_PAIR.search(name + value):  # some encodings can contain one
            message = f"{name!a}: it contains half of a surrogate pair: send both halves"
            raise ApiError(400, message, name, "invalid_value")
    present = {name: value for name, value in fields.items() if value}  # forms have no null: nothing is sent for it
    values = {name: _from_json(name, value) if name in schema.STRUCTURED else value for name, value in present.items()}
    try:
        body = schema.model_validate(values, strict=False)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
    if extra_images and isinstance(body, GenerationBody):
        body = body.model_copy(update={"extra_args": with_images(body.extra_args or {}, extra_images)})
    return _for_client(request, body), uploads


def json_body(schema: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A FastAPI dependency: the request's JSON body, validated by `schema`. Its errors name the field.

    The route's description of the body is `json_description(schema)`.
    """

    async def read(request: Request) -> Body:
        return await read_json(request, schema)

    return read


async def read_json(request: Request, schema: type[Body]) -> Body:
    """The JSON body, validated by `schema`; a long one in a thread, one of few, so that the event loop goes on.

    Raises ApiError if the body is not sent as JSON or has too much structure, and RequestValidationError.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"application/[\w.-]+\+json", media_type):
        message = "the body must be JSON: send it with Content-Type: application/json"
        raise ApiError(400, message, code="invalid_content_type")
    text = await request.body()
    if len(text) < SHORT_BYTES:
        return _for_client(request, parse_json(schema, text))
    body = await asyncio.get_running_loop().run_in_executor(_validating, parse_json, schema, text)
    return _for_client(request, body)


def parse_json(schema: type[Body], text: bytes) -> Body:
    """A JSON text, validated by `schema`. Raises ApiError if it has too much structure, and RequestValidationError."""
    if (reason := structure_error(text)) is not None:
        raise ApiError(400, reason, code="invalid_value")
    try:
        return schema.model_validate_json(text.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _from_json(field: str, text: str) -> Any:
    """The value of a form's field that is JSON. Raises ApiError, naming the field."""
    if (reason := structure_error(text.encode(errors="surrogatepass"))) is not None:
        raise ApiError(400, f"{field}: {reason}", field, "invalid_value")
    try:
        return from_json(text)
    except ValueError as error:
        raise ApiError(400, f"{field}: expected JSON: {error}", field, "invalid_value") from None


def _for_client(request: Request, body: Body) -> Body:
    """The body with the tenant of the client's key, and no higher priority than the key may have."""
    client = sender(request)
    if client is None or not isinstance(body, GenerationBody):
        return body
    limited = {"priority": min(body.priority, client.max_priority)}
    return body.model_copy(update=limited if client.tenant == ANY_TENANT else limited | {"tenant": client.tenant})


def json_description(schema: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a JSON body, as a reference to the schema's name."""
    description = schema.model_json_schema()
    definitions = {**description.pop("$defs", {}), schema.__name__: description}
    content = {"application/json": {"schema": {"$ref": f"#/$defs/{schema.__name__}", "$defs": definitions}}}
    return {"requestBody": {"required": True, "content": content}}


def form_body(schema: type[BaseModel], files: dict[str, dict[str, Any]], required: list[str]) -> dict[str, Any]:
    """The OpenAPI description of a form. Forms have no null: an empty text stands for it.

    files: the JSON schemas of the file fields, by name
    required: the file fields that must be sent
    """
    description = schema.model_json_schema() | {"additionalProperties": False}
    for field in description["properties"].values():
        if "anyOf" in field:
            field["anyOf"] = [EMPTY if choice == {"type": "null"} else choice for choice in field["anyOf"]]
        if field.get("default", 0) is None:
            del field["default"]
    description["properties"] |= files
    description["required"] = [*description.get("required", ()), *required]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": description}}}}
