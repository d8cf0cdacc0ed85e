"""/v1/videos: clients create a job, poll it by its id, and download the video once it is completed."""

import secrets
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from omni_worker.api.access.keys import sender
from omni_worker.api.errors import ApiError
from omni_worker.api.forms import form_body, read_form, read_json
from omni_worker.api.generation import ERROR_RESPONSES, cancel_on_disconnect, choose_seeds
from omni_worker.api.images.data_urls import decode_data_url
from omni_worker.api.openapi import unsupported_route
from omni_worker.api.schemas import ErrorResponse
from omni_worker.api.service import RouteInputs, Service
from omni_worker.api.videos.byte_ranges import range_response
from omni_worker.api.videos.jobs import VideoJobs
from omni_worker.api.videos.records import COMPLETED, Video
from omni_worker.api.videos.schemas import VideoDeleted, VideoError, VideoForm, VideoList, VideoObject, VideoRequest
from omni_worker.errors import RequestError
from omni_worker.model_card import ModelCard
from omni_worker.requests import GenerationParams

DEFAULT_CARD = ModelCard(pipeline="", mode="", video=True)
"""Used while no replica has reported its card."""
FILES = {
    "input_reference": {
        "type": "string",
        "format": "binary",
        "description": "A picture to start from, where the pipeline takes one: a PNG, JPEG or WebP file, or as "
        "`input_reference[image_url]` a data: URL.",
    }
}
BODY = form_body(VideoForm, FILES, [])
BODY["requestBody"]["content"]["application/json"] = {"schema": VideoRequest.model_json_schema()}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "There is no such video."}}
BAD_REQUEST: dict[int | str, dict[str, Any]] = {400: {"model": ErrorResponse, "description": "The request is wrong."}}
BINARY = {"schema": {"type": "string", "format": "binary"}}
MEDIA = {"video/mp4": BINARY, "image/webp": BINARY, "image/jpeg": BINARY}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": MEDIA},
    206: {"description": "The part of it that `Range` asks for.", "content": MEDIA},
    416: {"model": ErrorResponse, "description": "The file has none of the bytes that `Range` asks for."},
}
IMAGE_HINT = "send one as input_reference"
NOT_FROM_VIDEOS = "this server makes videos from prompts and pictures, not from other videos: POST /v1/videos"


def video_routes(service: Service, jobs: VideoJobs) -> APIRouter:
    """The routes of video jobs."""
    router = APIRouter(tags=["videos"], prefix="/v1/videos")

    def to_object(video: Video) -> VideoObject:
        params = video.generation_params
        return VideoObject(
            id=video.id,
            model=video.model,
            status=video.status,  # type: ignore[arg-type]
            progress=jobs.progress(video),
            prompt=video.prompt,
            size=video.size,
            seconds=video.seconds,
            fps=video.fps,
            seed=params.seed,
            created_at=int(video.created_at),
            completed_at=_truncate(video.completed_at),
            expires_at=_truncate(video.expires_at),
            error=None if video.error is None else VideoError(**video.error),
        )

    async def find(id: str, request: Request) -> Video:
        video = await jobs.get(id, owner_of(request))
        if video is None:
            raise ApiError(404, f"there is no video {id!r}: it was deleted, or has expired", "video_id", "not_found")
        return video

    @router.post("", response_model=VideoObject, responses=ERROR_RESPONSES, openapi_extra=BODY)
    async def create(request: Request) -> VideoObject:
        """Have a video made. It is a job: ask after it by its id, and download it once it is completed."""
        body, file = await read_body(request)
        files = [] if file is None else [file]
        inputs = RouteInputs(
            body.prompt, image_count=len(files), product="video", image_field="input_reference", image_hint=IMAGE_HINT
        )
        service.check(body, inputs)
        decoded = await cancel_on_disconnect(request, service.decode_images(body, files, "input_reference"))
        video = new_video(service, body, file, owner_of(request), decoded.size)
        await cancel_on_disconnect(request, service.with_decoded_images(video.generation_params))
        await jobs.add(video)
        return to_object(video)

    @router.get("", response_model=VideoList, responses=BAD_REQUEST)
    async def list_videos(
        request: Request,
        after: Annotated[str | None, Query(description="The id after which to go on.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="How many.")] = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="By their creation.")] = "desc",
    ) -> VideoList:
        """The videos that are there, page by page."""
        page = await jobs.page(limit + 1, after, order == "desc", owner_of(request))
        if page is None:
            raise ApiError(400, f"after: there is no video {after!r}", "after", "invalid_value")
        data = [to_object(video) for video in page[:limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last, has_more=len(page) > limit)

    unsupported_route(router, "/edits", NOT_FROM_VIDEOS)
    unsupported_route(router, "/extensions", NOT_FROM_VIDEOS)
    unsupported_route(router, "/characters", NOT_FROM_VIDEOS)
    unsupported_route(router, "/{video_id}/remix", NOT_FROM_VIDEOS)

    @router.get("/{video_id}", response_model=VideoObject, responses=NOT_FOUND)
    async def retrieve(video_id: str, request: Request) -> VideoObject:
        """A video, and how far it is."""
        return to_object(await find(video_id, request))

    @router.delete("/{video_id}", response_model=VideoDeleted, responses=NOT_FOUND)
    async def delete(video_id: str, request: Request) -> VideoDeleted:
        """Delete a video and its files; one that is being made is ended."""
        await find(video_id, request)
        await jobs.delete(video_id)
        return VideoDeleted(id=video_id)

    @router.get("/{video_id}/content", response_class=Response, responses={**NOT_FOUND, **BAD_REQUEST, **DOWNLOAD})
    async def content(
        request: Request,
        video_id: str,
        variant: Annotated[
            Literal["video", "thumbnail", "spritesheet"],
            Query(description="The MP4 file, its first frame in WebP, or a sheet of up to 16 frames in JPEG."),
        ] = "video",
    ) -> Response:
        """Download a video that is completed, or a range of its bytes."""
        video = await find(video_id, request)
        file = await jobs.file(video_id, variant) if video.status == COMPLETED else None
        if file is None:
            raise ApiError(400, f"the video is {video.status}: there is nothing to download", code="video_not_ready")
        return range_response(file, f'"{video_id}-{variant}"', request.headers)

    return router


async def read_body(request: Request) -> tuple[VideoForm, bytes | None]:
    """The body, sent as a form or as JSON, and the file of the input image.

    Raises ApiError, RequestError or RequestValidationError, naming the field.
    """
    if request.headers.get("content-type", "").lower().startswith("application/json"):
        body = await read_json(request, VideoRequest)
        reference = body.input_reference
        return body, decode_data_url(reference.image_url, "input_reference") if reference else None
    form, files = await read_form(request, VideoForm, frozenset(FILES), {"input_reference[image_url]"})
    urls = [url.decode(errors="replace") for url in files.get("input_reference[image_url]", [])]
    references = files.get("input_reference", []) + [decode_data_url(url, "input_reference") for url in urls]
    if len(references) > 1:
        raise ApiError(400, "input_reference: one picture is enough", "input_reference", "invalid_value")
    return form, references[0] if references else None


def owner_of(request: Request) -> str | None:
    """The owner of the videos that a request creates, and of those that it may see; None without keys: of all."""
    client = sender(request)
    return None if client is None else client.owner


def new_video(
    service: Service,
    body: VideoForm,
    reference: bytes | None,
    owner: str | None,
    image_size: tuple[int, int] | None = None,
) -> Video:
    """The job for a request whose reference has this width and height. Raises RequestError if it would be too long."""
    card = service.card or DEFAULT_CARD
    fps = body.fps or card.fps
    frames = body.num_frames if body.seconds is None else _nearest_frames(float(body.seconds), fps, card.frame_multiple)
    if (frames or 0) > service.limits.frames:
        field = "num_frames" if body.seconds is None else "seconds"
        most = service.limits.frames
        raise RequestError("invalid", f"{field}: {frames} frames are more than the {most} allowed here", field)
    (seed,) = choose_seeds(body.seed, 1)
    params = GenerationParams(prompt=body.prompt, seed=seed, frames=frames, fps=body.fps, **service.params_of(body))
    params = service.sized_like(params, image_size)
    _check_pixels(service, params, frames or card.frames or 1, card)
    total_frames = frames or card.frames
    return Video(
        id=f"video_{secrets.token_hex(12)}",
        model=service.model,
        prompt=body.prompt,
        size=f"{params.width}x{params.height}" if params.width and params.height else "auto",
        seconds=body.seconds or ("auto" if total_frames is None else f"{total_frames / fps:g}"),
        fps=fps,
        params=msgspec.msgpack.encode(params),
        reference=reference,
        owner=owner,
    )


def _check_pixels(service: Service, params: GenerationParams, frames: int, card: ModelCard) -> None:
    """Raises RequestError if a video would have too many pixels, as far as its size is known."""
    width = params.width or card.defaults.width or card.width or 1
    height = params.height or card.defaults.height or card.height or 1
    most = service.limits.video_pixels
    if frames * width * height > most:
        raise RequestError(
            "invalid",
            f"size: {frames} frames of {width}x{height} are {frames * width * height} pixels, more than the {most} "
            "allowed here: ask for fewer frames or a smaller size",
            "size",
        )


def _nearest_frames(seconds: float, fps: float, multiple: int) -> int:
    """The possible number of frames nearest to a duration: one more than a multiple of `multiple`."""
    return max(0, round((seconds * fps - 1) / multiple)) * multiple + 1


def _truncate(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
