"""Bodies that are forms with files, validated and described in OpenAPI by a schema, as JSON bodies are."""

from collections.abc import Collection
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from omni_worker.api.errors import ApiError

MAX_FILES, MAX_FIELDS, MAX_FIELD_BYTES = 32, 100, 4 * 2**20

Body = TypeVar("Body", bound=BaseModel)
Files = dict[str, list[bytes]]
"""The contents of files, by the name of their field."""


async def read_form(
    request: Request, schema: type[Body], file_fields: frozenset[str], url_fields: Collection[str] = ()
) -> tuple[Body, Files]:
    """The fields of a form, validated by `schema`, and its files. Files of `name[]` count as files of `name`.

    url_fields: fields with the URL of a file; their values are returned with the files, as bytes

    Raises ApiError if the body is not a form or has unexpected files, and RequestValidationError, naming the field.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "the body is to be multipart/form-data", code="invalid_content_type")
    fields: dict[str, str] = {}
    uploads: Files = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if isinstance(value, UploadFile) and name in file_fields:
                uploads.setdefault(name, []).append(await value.read())
            elif isinstance(value, UploadFile):
                raise ApiError(400, f"{name}: not a file that this route takes", name, "unknown_parameter")
            elif name in file_fields:
                raise ApiError(400, f"{name}: send it as a file, with a file name", name, "invalid_value")
            elif key in url_fields:
                uploads.setdefault(key, []).append(value.encode())
            elif key in fields:
                raise ApiError(400, f"{key}: given twice", key, "invalid_value")
            else:
                fields[key] = value
    try:
        return schema.model_validate(fields, strict=False), uploads
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def parse_json(schema: type[Body], text: bytes) -> Body:
    """A JSON body, validated by `schema`. Raises RequestValidationError, naming the field."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def form_body(schema: type[BaseModel], files: dict[str, dict[str, Any]], required: list[str]) -> dict[str, Any]:
    """The OpenAPI description of a form. Forms have no null, so nullable fields are described as optional ones.

    files: the JSON schemas of the file fields, by name
    required: the file fields that must be sent
    """
    description = schema.model_json_schema()
    for field in description["properties"].values():
        choices = [choice for choice in field.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) == 1:
            del field["anyOf"]
            field |= choices[0]
        if field.get("default", 0) is None:
            del field["default"]
    description["properties"] |= files
    description["required"] = [*description.get("required", ()), *required]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": description}}}}
