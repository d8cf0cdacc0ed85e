"""Bodies that are forms with files, checked and described as JSON ones are."""

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


async def read_form(
    request: Request, kind: type[Body], files: frozenset[str], links: Collection[str] = ()
) -> tuple[Body, Files]:
    """The fields as a `kind`, and the files by name, those of `name[]` with those of `name`; so too the fields that are
    `links` to files.

    Raises ApiError where the body is no form, and RequestValidationError, naming the field.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "the body is to be multipart/form-data", code="invalid_content_type")
    fields: dict[str, str] = {}
    uploads: Files = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if isinstance(value, UploadFile) and name in files:
                uploads.setdefault(name, []).append(await value.read())
            elif isinstance(value, UploadFile):
                raise ApiError(400, f"{name}: not a file that this route takes", name, "unknown_parameter")
            elif name in files:
                raise ApiError(400, f"{name}: send it as a file, with a file name", name, "invalid_value")
            elif key in links:
                uploads.setdefault(key, []).append(value.encode())
            elif key in fields:
                raise ApiError(400, f"{key}: given twice", key, "invalid_value")
            else:
                fields[key] = value
    try:
        return kind.model_validate(fields, strict=False), uploads
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def validated(kind: type[Body], text: bytes) -> Body:
    """A body in JSON as a `kind`. Raises RequestValidationError, naming the field."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def form_description(kind: type[BaseModel], files: dict[str, dict[str, Any]], required: list[str]) -> dict[str, Any]:
    """The body of such a route, for its OpenAPI description. A form has no null: its fields are left out instead."""
    schema = kind.model_json_schema()
    for field in schema["properties"].values():
        choices = [choice for choice in field.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) == 1:
            del field["anyOf"]
            field |= choices[0]
        if field.get("default", 0) is None:
            del field["default"]
    schema["properties"] |= files
    schema["required"] = [*schema.get("required", ()), *required]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
