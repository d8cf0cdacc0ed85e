"""POST /v1/audio/speech: a sound from a prompt, as a file or as a stream of events."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from omni_worker.api import streams
from omni_worker.api.audio.encoding import FORMATS, check_format, encode_sound
from omni_worker.api.audio.schemas import SpeechEvent, SpeechRequest
from omni_worker.api.audio.stream import SpeechStream
from omni_worker.api.forms import json_body, json_description
from omni_worker.api.generation import (
    ERROR_RESPONSES,
    cancel_on_disconnect,
    generate_all,
    generation_requests,
    param_names,
)
from omni_worker.api.openapi import stream_response, unsupported_route
from omni_worker.api.products import check_result
from omni_worker.api.service import RouteInputs, Service
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import IMAGE
from omni_worker.requests import GenerationParams, Sound

SOUND_HEADERS = ("X-Sample-Rate", "X-Channels", "X-Seed")
"""What a file does not say, or not in every format: samples a second, channels, and the seed that makes it again."""
BODY = json_description(SpeechRequest)
NOT_HEARD = "this server makes sound from prompts, and does not listen to any: POST /v1/audio/speech"


def speech_routes(service: Service) -> APIRouter:
    """The route that makes sound, and those of OpenAI's API that take some."""
    router = APIRouter(tags=["audio"], prefix="/v1/audio")

    @router.post("/speech", response_class=Response, responses=_responses(), openapi_extra=BODY)
    async def speech(
        body: Annotated[SpeechRequest, Depends(json_body(SpeechRequest))], request: Request
    ) -> StreamingResponse:
        """Make the sound that `input` describes."""
        with param_names(body.param_names):
            _check(service, body)
            params = GenerationParams(prompt=body.input, seconds=body.seconds, **service.params_of(body))
            params = await cancel_on_disconnect(request, service.with_decoded_images(params))
            (generation,) = generation_requests(request, body.seed, 1, params)
            if body.stream_format == "sse":
                stream = SpeechStream(service.orchestrator, generation, body)
                await cancel_on_disconnect(request, stream.start())
                return StreamingResponse(stream.events(), media_type="text/event-stream", headers=streams.HEADERS)
            (result,) = await cancel_on_disconnect(request, generate_all(service.orchestrator, [generation]))
        check_result("audio", result)
        assert result.sound is not None
        return _file_response(result.sound, body.format, generation.params.seed)

    unsupported_route(router, "/transcriptions", NOT_HEARD)
    unsupported_route(router, "/translations", NOT_HEARD)
    return router


def _check(service: Service, body: SpeechRequest) -> None:
    """Refuse at once what cannot be answered. Raises ApiError or RequestError, naming the field."""
    if IMAGE not in service.outputs:
        raise RequestError("invalid", "this pipeline gives text, not sound: POST /v1/chat/completions", "model")
    card = service.card
    own_seconds = None if card is None else card.defaults.seconds or card.seconds
    service.check(body, RouteInputs(body.input, product="audio", seconds=body.seconds or own_seconds))
    check_format(body.format)


def _file_response(sound: Sound, format: str, seed: int) -> StreamingResponse:
    """The file, sent while it is encoded."""
    values = (sound.rate, len(sound.samples), seed)
    headers = {name: str(value) for name, value in zip(SOUND_HEADERS, values, strict=True)}
    return StreamingResponse(encode_sound(sound, format), media_type=FORMATS[format].media_type, headers=headers)


def _responses() -> dict[int | str, dict[str, Any]]:
    """The responses for the OpenAPI page."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    response = stream_response(SpeechEvent, "The file, or with `stream_format` sse its pieces as events.")
    response["content"] |= {format.media_type: binary for format in FORMATS.values()}
    integer = {"schema": {"type": "integer"}}
    response["headers"] = {name: {"description": "Of a file.", **integer} for name in SOUND_HEADERS}
    return {**ERROR_RESPONSES, 200: response}
