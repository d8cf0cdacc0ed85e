"""/v1/videos: videos as jobs that clients ask after."""

import asyncio
import secrets
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from omni_worker.api.errors import ApiError
from omni_worker.api.forms import form_description, read_form, validated
from omni_worker.api.generation import ERRORS, seeds
from omni_worker.api.images.decoding import as_array, of_data_url, opened
from omni_worker.api.openapi import refused_route
from omni_worker.api.schemas import ErrorResponse
from omni_worker.api.service import Asked, Service
from omni_worker.api.videos.byte_ranges import part
from omni_worker.api.videos.jobs import VideoJobs
from omni_worker.api.videos.records import COMPLETED, Video
from omni_worker.api.videos.schemas import VideoDeleted, VideoError, VideoForm, VideoList, VideoObject, VideoRequest
from omni_worker.errors import RequestError
from omni_worker.model_card import ModelCard
from omni_worker.requests import GenerationParams

UNKNOWN = ModelCard(pipeline="", mode="", video=True)  # until a replica has told what it serves
FILE = {
    "input_reference": {
        "type": "string",
        "format": "binary",
        "description": "A picture to start from, where the pipeline takes one: a PNG, JPEG or WebP file, or as "
        "`input_reference[image_url]` a data: URL.",
    }
}
BODY = form_description(VideoForm, FILE, [])
BODY["requestBody"]["content"]["application/json"] = {"schema": VideoRequest.model_json_schema()}
GONE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "There is no such video."}}
WRONG: dict[int | str, dict[str, Any]] = {400: {"model": ErrorResponse, "description": "The request is wrong."}}
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILES = {"video/mp4": BINARY, "image/webp": BINARY, "image/jpeg": BINARY}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": FILES},
    206: {"description": "The part of it that `Range` asks for.", "content": FILES},
    416: {"model": ErrorResponse, "description": "The file has none of the bytes that `Range` asks for."},
}
NOT_FROM_VIDEOS = "this server makes videos from prompts and pictures, not from other videos: POST /v1/videos"


def video_routes(service: Service, jobs: VideoJobs) -> APIRouter:
    """The routes that make videos."""
    router = APIRouter(tags=["videos"], prefix="/v1/videos")

    def shown(video: Video) -> VideoObject:
        params = msgspec.msgpack.decode(video.params, type=GenerationParams)
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
            completed_at=_whole(video.completed_at),
            expires_at=_whole(video.expires_at),
            error=None if video.error is None else VideoError(**video.error),
        )

    async def known(id: str) -> Video:
        video = await jobs.get(id)
        if video is None:
            raise ApiError(404, f"there is no video {id!r}: it was deleted, or has expired", "video_id", "not_found")
        return video

    @router.post("", response_model=VideoObject, responses=ERRORS, openapi_extra=BODY)
    async def create(request: Request) -> VideoObject:
        """Have a video made. It is a job: ask after it by its id, and download it once it is completed."""
        body, file = await read_video(request)
        pictures = [await opened(file, "input_reference", service.limits.pixels)] if file is not None else []
        images = [await asyncio.to_thread(as_array, picture) for picture in pictures]
        where = "send one as input_reference"
        asked = Asked(body.prompt, images=images, video=True, where=where, image_field="input_reference")
        service.check(body, asked)
        video = new_video(service, body, file)
        await jobs.add(video)
        return shown(video)

    @router.get("", response_model=VideoList, responses=WRONG)
    async def list_videos(
        after: Annotated[str | None, Query(description="The id after which to go on.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="How many.")] = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="By their creation.")] = "desc",
    ) -> VideoList:
        """The videos that are there, page by page."""
        found = await jobs.page(limit + 1, after, order == "desc")
        if found is None:
            raise ApiError(400, f"after: there is no video {after!r}", "after", "invalid_value")
        data = [shown(video) for video in found[:limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)

    refused_route(router, "/edits", NOT_FROM_VIDEOS)
    refused_route(router, "/extensions", NOT_FROM_VIDEOS)
    refused_route(router, "/characters", NOT_FROM_VIDEOS)
    refused_route(router, "/{video_id}/remix", NOT_FROM_VIDEOS)

    @router.get("/{video_id}", response_model=VideoObject, responses=GONE)
    async def retrieve(video_id: str) -> VideoObject:
        """A video, and how far it is."""
        return shown(await known(video_id))

    @router.delete("/{video_id}", response_model=VideoDeleted, responses=GONE)
    async def delete(video_id: str) -> VideoDeleted:
        """Delete a video and its files; one that is being made is ended."""
        await known(video_id)
        await jobs.delete(video_id)
        return VideoDeleted(id=video_id)

    @router.get("/{video_id}/content", response_class=Response, responses={**GONE, **WRONG, **CONTENT})
    async def content(
        request: Request,
        video_id: str,
        variant: Annotated[
            Literal["video", "thumbnail", "spritesheet"],
            Query(description="The MP4 file, its first frame in WebP, or a sheet of up to 16 frames in JPEG."),
        ] = "video",
    ) -> Response:
        """Download a video that is completed, or a range of its bytes."""
        video = await known(video_id)
        file = await jobs.file(video_id, variant) if video.status == COMPLETED else None
        if file is None:
            raise ApiError(400, f"the video is {video.status}: there is nothing to download", code="video_not_ready")
        return part(file, f'"{video_id}-{variant}"', request.headers)

    return router


async def read_video(request: Request) -> tuple[VideoForm, bytes | None]:
    """The body, as a form or in JSON, and the file of a picture to start from."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = validated(VideoRequest, await request.body())
        return body, of_data_url(body.input_reference.image_url, "input_reference") if body.input_reference else None
    form, files = await read_form(request, VideoForm, frozenset(FILE), {"input_reference[image_url]"})
    given = files.get("input_reference", [])
    given += [of_data_url(url.decode(), "input_reference") for url in files.get("input_reference[image_url]", [])]
    if len(given) > 1:
        raise ApiError(400, "input_reference: one picture is enough", "input_reference", "invalid_value")
    return form, given[0] if given else None


def new_video(service: Service, body: VideoForm, reference: bytes | None) -> Video:
    """The job of a request. Raises RequestError where it would be too long."""
    card = service.card or UNKNOWN
    fps = body.fps or card.fps
    frames = body.num_frames
    if body.seconds is not None:
        multiple = card.frame_multiple
        frames = max(0, round((float(body.seconds) * fps - 1) / multiple)) * multiple + 1
    if (frames or 0) > service.limits.frames:
        field = "num_frames" if body.seconds is None else "seconds"
        most = service.limits.frames
        raise RequestError("invalid", f"{field}: {frames} frames are more than the {most} allowed here", field)
    (seed,) = seeds(body.seed, 1)
    params = GenerationParams(prompt=body.prompt, seed=seed, frames=frames, fps=body.fps, **body.generation)
    length = frames or card.frames
    return Video(
        id=f"video_{secrets.token_hex(12)}",
        model=service.model,
        prompt=body.prompt,
        size=body.size or "auto",
        seconds=body.seconds or ("auto" if length is None else f"{length / fps:g}"),
        fps=fps,
        params=msgspec.msgpack.encode(params),
        reference=reference,
    )


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
