"""POST, GET and DELETE /v1/omni/loras: LoRA adapters that are added to the replicas, and removed, while they run."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field, field_validator

from omni_worker.api.errors import ApiError
from omni_worker.api.forms import json_body, json_description
from omni_worker.api.request_model import RequestModel
from omni_worker.api.schemas import ErrorResponse
from omni_worker.config.lora_source import NAME, LoraComponent, LoraSource
from omni_worker.orchestrator.lora_library import LoraLibrary, LoraStatus

SOURCE = re.compile(r"hf://[^/@\s]+/[^/@\s]+(@\S+)?|/.+")
PATTERN = NAME.pattern.join("^$")


class NewLora(RequestModel):
    """A LoRA adapter to add. Also replaces one that was added under the same name."""

    name: Annotated[
        str, Field(max_length=63, json_schema_extra={"pattern": PATTERN}, description="By which requests select it.")
    ]
    source: Annotated[
        str,
        Field(
            max_length=1024,
            json_schema_extra={"pattern": f"^({SOURCE.pattern})$"},
            description="hf://org/name, hf://org/name@revision, or the path of a file or folder at the replicas.",
        ),
    ]
    weight_name: Annotated[
        str | None,
        Field(min_length=1, max_length=253, description="The file in the repository or folder, if it has several."),
    ] = None
    scale: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False, description="For requests that give none.")] = (
        1.0
    )
    component: Annotated[
        LoraComponent | None,
        Field(description="The model that it adapts, if not the pipeline's first: the second transformer of Wan 2.2."),
    ] = None
    wait: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            allow_inf_nan=False,
            description="Seconds to wait until all replicas have it; after them, the answer is 202.",
        ),
    ] = 300.0

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("expected up to 63 letters, digits, dots, - and _, and a letter or digit first")
        return value

    @field_validator("source", "weight_name")
    @classmethod
    def _check_printable(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("expected printable characters only")
        return value

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: str) -> str:
        if not SOURCE.fullmatch(value):
            raise ValueError("expected hf://org/name, hf://org/name@revision, or an absolute path")
        return value


class LoraObject(BaseModel):
    """A LoRA adapter.

    `origin`: `spec` (the manifest), `flag` (a replica's command line) or `api` (added at run time). `state`: `loaded`
    if every replica that is up has it, otherwise `loading`, `unloading`, `full` (there is no room for it) or `failed`;
    then `reason` says why, and the replicas try again. `size` is that of its file in bytes, 0 until known.
    """

    name: str
    source: str
    weight_name: str | None
    scale: float
    component: str | None
    origin: str
    state: str
    reason: str | None
    size: int
    replicas: list[str]


class LoraList(BaseModel):
    """Answer of GET /v1/omni/loras."""

    loras: list[LoraObject]


class RemovedLora(BaseModel):
    """Answer of DELETE /v1/omni/loras/{name}. Requests that use the adapter finish first."""

    name: str
    deleted: bool = True


def lora_routes(library: LoraLibrary, is_open: bool) -> APIRouter:
    """The routes of adapters. `is_open`: whether anyone can call them who is not to be trusted: no key is needed, and
    other machines reach the server. Then they only list.
    """
    router = APIRouter(prefix="/v1/omni/loras", tags=["loras"])
    wrong: dict[int | str, dict[str, object]] = {
        400: {"model": ErrorResponse, "description": "The request is wrong, or the adapter cannot be loaded."},
        403: {"model": ErrorResponse, "description": "This server has no API keys, and other machines reach it."},
    }

    def require_trust() -> None:
        if is_open:
            message = "adapters can only be changed where clients need an API key: start the server with --api-key-file"
            raise ApiError(403, message, code="api_keys_required")

    @router.post(
        "",
        openapi_extra=json_description(NewLora),
        responses={
            **wrong,
            202: {"model": LoraObject, "description": "It is still being loaded."},
            429: {"model": ErrorResponse, "description": "As many adapters as there may be are in use."},
        },
    )
    async def add(response: Response, body: Annotated[NewLora, Depends(json_body(NewLora))]) -> LoraObject:
        """Load an adapter into every replica, and into those that start later."""
        require_trust()
        library.add(LoraSource(body.name, body.source, body.weight_name, body.scale, body.component))
        status = await library.wait(body.name, body.wait)
        if status.phase in ("failed", "full"):
            raise ApiError(400, f"source: {status.reason}", "source", "lora_not_loaded")
        response.status_code = 200 if status.phase == "loaded" else 202
        return _object(status)

    @router.get("")
    async def list_loras() -> LoraList:
        """Every adapter, by name, and the replicas that have it."""
        return LoraList(loras=[_object(library.status(name)) for name in library.names])

    @router.delete("/{name}", responses={**wrong, 404: {"model": ErrorResponse}})
    async def remove(name: str) -> RemovedLora:
        """Remove an adapter that was added at run time from every replica."""
        require_trust()
        if name not in library.names:
            known = ", ".join(map(repr, library.names)) or "none"
            raise ApiError(404, f"there is no LoRA {name!r}; this server has {known}", "name", "lora_not_found")
        library.remove(name)
        return RemovedLora(name=name)

    return router


def _object(status: LoraStatus) -> LoraObject:
    source = status.source
    return LoraObject(
        name=source.name,
        source=source.source,
        weight_name=source.weight_name,
        scale=source.scale,
        component=source.component,
        origin=status.origin,
        state=status.phase,
        reason=status.reason,
        size=status.size,
        replicas=list(status.replicas),
    )
