"""Runs video jobs in order of arrival, a few at a time.

After a restart of the head, interrupted jobs run again with the same seed.
"""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from omni_worker.api.errors import ApiError, error_body
from omni_worker.api.products import check_result
from omni_worker.api.service import Service
from omni_worker.api.videos.files import encode_variants
from omni_worker.api.videos.records import COMPLETED, RUNNING, VIDEO_ID, Video, VideoFile
from omni_worker.api.videos.store import VideoStore
from omni_worker.config.api import VideoConfig
from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult

log = logging.getLogger(__name__)
MAX_QUEUED = 1000
MAX_OF_OWNER = 250
"""Of these, the most of one owner, so that no client fills the queue alone."""
CLEAN_UP_SECONDS = 30.0
RETRY_SECONDS = 5.0
TRANSIENT_ERRORS = ("busy", "unavailable", "refused")
"""Kinds of errors that are not the job's fault, so that it is retried."""

Result = TypeVar("Result")


class VideoJobs:
    """The video jobs of one head. Without a folder or a database, they are stored in a temporary folder."""

    def __init__(self, service: Service, config: VideoConfig) -> None:
        """Raises UsageError if the folder or the database cannot be used."""
        self._service = service
        self._config = config
        self._temporary_folder: tempfile.TemporaryDirectory[str] | None = None
        self._store: VideoStore | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._work_available = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        if config.database is not None:
            self._store = VideoStore(config.database)
        elif config.folder is not None:
            self._store = VideoStore.in_folder(Path(config.folder))

    async def start(self) -> None:
        """Start to run jobs, the interrupted ones again."""
        if self._store is not None and (count := await self._query(VideoStore.requeue_interrupted)):
            log.info("%d videos that were interrupted are made again", count)
        self._work_available.set()
        self._background = [asyncio.create_task(self._dispatch()), asyncio.create_task(self._clean_up())]

    async def stop(self) -> None:
        """Interrupt the running jobs, which the next start runs again, and close the store."""
        tasks = [*self._background, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._store is not None:
            self._store.close()
        if self._temporary_folder is not None:
            self._temporary_folder.cleanup()

    async def add(self, video: Video) -> None:
        """Queue a new job. Raises ApiError if too many are queued."""
        if await self._query(VideoStore.count_queued) >= MAX_QUEUED:
            raise ApiError(429, f"{MAX_QUEUED} videos are queued already: try again later", code="rate_limit_exceeded")
        if video.owner is not None and await self._query(lambda store: store.count_queued(video.owner)) >= MAX_OF_OWNER:
            message = f"{MAX_OF_OWNER} of your videos wait already: try again later"
            raise ApiError(429, message, code="rate_limit_exceeded")
        await self._query(lambda store: store.add(video))
        self._work_available.set()

    async def get(self, id: str, owner: str | None) -> Video | None:
        """A job of an owner; None if there is none with this id, or it has expired. No owner: of any."""
        if not VIDEO_ID.fullmatch(id):
            return None
        return await self._query(lambda store: store.get(id, owner))

    async def page(self, limit: int, after: str | None, newest_first: bool, owner: str | None) -> list[Video] | None:
        """Up to `limit` jobs of an owner that follow the job `after`, as `VideoStore.page` gives them."""
        if after is not None and not VIDEO_ID.fullmatch(after):
            return None
        return await self._query(lambda store: store.page(limit, after, newest_first, owner))

    async def file(self, id: str, variant: str) -> VideoFile | None:
        """A file of a completed job."""
        return await self._query(lambda store: store.file(id, variant))

    async def delete(self, id: str) -> None:
        """Abort a job if it runs, and delete it and its files."""
        if (task := self._running.get(id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._query(lambda store: store.delete(id))

    def progress(self, video: Video) -> int:
        """The progress of a job, in percent of its denoising steps."""
        if video.status != RUNNING:
            return 100 if video.status == COMPLETED else 0
        request = self._service.orchestrator.running.get(video.id)
        return 0 if request is None or not request.total_steps else min(99, 100 * request.step // request.total_steps)

    async def _query(self, query: Callable[[VideoStore], Result]) -> Result:
        """The result of `query`, called with the store in a thread. Creates a temporary store if there is none."""
        if self._store is None:
            self._temporary_folder = tempfile.TemporaryDirectory(prefix="omni-videos-")
            self._store = VideoStore.in_folder(Path(self._temporary_folder.name))
        return await asyncio.to_thread(query, self._store)

    async def _dispatch(self) -> None:
        """Start queued jobs while there is room."""
        while True:
            await self._work_available.wait()
            self._work_available.clear()
            while self._store is not None and len(self._running) < self._config.jobs:
                video = await self._query(VideoStore.start_next)
                if video is None:
                    break
                task = self._running[video.id] = asyncio.create_task(self._run(video))
                task.add_done_callback(lambda task, id=video.id: self._on_end(id))  # type: ignore[misc]

    def _on_end(self, id: str) -> None:
        del self._running[id]
        self._work_available.set()

    async def _clean_up(self) -> None:
        """Delete expired and surplus videos from time to time."""
        while True:
            if self._store is not None:
                with contextlib.suppress(Exception):  # nobody waits for it, and the next round tries again
                    await self._query(lambda store: store.clean_up(self._config.size))
            await asyncio.sleep(CLEAN_UP_SECONDS)

    async def _run(self, video: Video) -> None:
        """Run a job and store its files or its error."""
        try:
            frames = await self._generate_frames(video)
            count, height, width = frames.shape[:3]
            variants = await asyncio.to_thread(encode_variants, frames, video.fps)
            size = f"{width}x{height}"
            seconds = f"{count / video.fps:g}" if video.seconds == "auto" else video.seconds
            await self._query(lambda store: store.complete(video.id, size, seconds, variants, self._config.seconds))
            await self._query(lambda store: store.clean_up(self._config.size))
        except RequestError as error:
            await self._fail(video, error_body(error)["error"])
        except Exception as error:
            log.exception("video %s failed", video.id)
            await self._fail(video, {"code": "internal_error", "message": f"the server failed: {type(error).__name__}"})

    async def _fail(self, video: Video, error: dict[str, Any]) -> None:
        await self._query(lambda store: store.fail(video.id, error, self._config.seconds))

    async def _attempt(self, video: Video, params: GenerationParams) -> GenerationResult:
        if video.reference is not None:
            decoded = await self._service.decode_reference(video.reference)
            params = replace(params, images=list(decoded.images))
        params = await self._service.with_decoded_images(params)
        self._service.check_video_job(params)
        return await self._service.orchestrator.generate(GenerationRequest(id=video.id, params=params))

    async def _generate_frames(self, video: Video) -> np.ndarray:
        """uint8 of shape (frames, height, width, channels). Retries transient errors and raises other RequestErrors."""
        params = video.generation_params
        while True:
            try:
                result = await self._attempt(video, params)
                break
            except RequestError as error:
                if error.kind not in TRANSIENT_ERRORS:
                    raise
                seconds = error.retry_after or RETRY_SECONDS
            await asyncio.sleep(seconds)  # after the block, so that no decoded image is kept while it waits
        check_result("video", result)
        return result.images[0]
