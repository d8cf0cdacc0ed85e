"""Runs video jobs in order of arrival, a few at a time, and again after a restart of the head, with the same seed."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from omni_worker.api.errors import ApiError, error_body
from omni_worker.api.images.decoding import as_array, opened
from omni_worker.api.service import Service
from omni_worker.api.videos.files import files_of
from omni_worker.api.videos.records import COMPLETED, RUNNING, File, Video
from omni_worker.api.videos.store import VideoStore
from omni_worker.config.api import VideoConfig
from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams, GenerationRequest

log = logging.getLogger(__name__)
MAX_WAITING = 1000
SWEEP_SECONDS = 30.0
TRY_AGAIN_SECONDS = 5.0
PASSING = ("busy", "unavailable", "refused")  # kinds of errors that are no fault of the job: it is tried again

Answer = TypeVar("Answer")


class VideoJobs:
    """The jobs of one head. With neither a folder nor a database they are kept in a folder that ends with it."""

    def __init__(self, service: Service, config: VideoConfig) -> None:
        self._service = service
        self._config = config
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._store: VideoStore | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        if config.database is not None:
            self._store = VideoStore(config.database)
        elif config.folder is not None:
            self._store = VideoStore.in_folder(Path(config.folder))

    async def start(self) -> None:
        """Go on with what is there."""
        if self._store is not None and (count := await self._ask(VideoStore.put_back)):
            log.info("%d videos that were interrupted are made again", count)
        self._wake.set()
        self._tasks = [asyncio.create_task(self._dispatch()), asyncio.create_task(self._sweep())]

    async def stop(self) -> None:
        """End what runs; it is gone on with at the next start."""
        tasks = [*self._tasks, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._store is not None:
            self._store.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def add(self, video: Video) -> None:
        """Take a job. Raises ApiError where too many wait."""
        if await self._ask(VideoStore.count_waiting) >= MAX_WAITING:
            raise ApiError(429, f"{MAX_WAITING} videos wait already: come again later", code="rate_limit_exceeded")
        await self._ask(lambda store: store.add(video))
        self._wake.set()

    async def get(self, id: str) -> Video | None:
        """One job."""
        return await self._ask(lambda store: store.get(id))

    async def page(self, limit: int, after: str | None, newest_first: bool) -> list[Video] | None:
        """Jobs in order of their creation, from that after `after` on; None where that is not there."""
        return await self._ask(lambda store: store.page(limit, after, newest_first))

    async def file(self, id: str, variant: str) -> File | None:
        """A file of a job that is done."""
        return await self._ask(lambda store: store.file(id, variant))

    async def delete(self, id: str) -> None:
        """End a job where it runs, and forget it."""
        if (task := self._running.get(id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._ask(lambda store: store.delete(id))

    def progress(self, video: Video) -> int:
        """How far it is, in percent of its denoising steps."""
        if video.status != RUNNING:
            return 100 if video.status == COMPLETED else 0
        at = self._service.orchestrator.running.get(video.id)
        return 0 if at is None or not at.total_steps else min(99, 100 * at.step // at.total_steps)

    async def _ask(self, question: Callable[[VideoStore], Answer]) -> Answer:
        """Ask the store, in a thread."""
        if self._store is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="omni-videos-")
            self._store = VideoStore.in_folder(Path(self._temporary.name))
        return await asyncio.to_thread(question, self._store)

    async def _dispatch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._store is not None and len(self._running) < self._config.jobs:
                video = await self._ask(VideoStore.take)
                if video is None:
                    break
                task = self._running[video.id] = asyncio.create_task(self._run(video))
                task.add_done_callback(lambda done, id=video.id: self._ended(id))  # type: ignore[misc]

    def _ended(self, id: str) -> None:
        del self._running[id]
        self._wake.set()

    async def _sweep(self) -> None:
        while True:
            if self._store is not None:
                with contextlib.suppress(Exception):  # it is tried again, and nobody waits for it
                    await self._ask(lambda store: store.sweep(self._config.size))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _run(self, video: Video) -> None:
        try:
            frames = await self._frames(video)
            count, height, width = frames.shape[:3]
            made = await asyncio.to_thread(files_of, frames, video.fps)
            seconds = f"{count / video.fps:g}" if video.seconds == "auto" else video.seconds
            await self._ask(
                lambda store: store.complete(video.id, f"{width}x{height}", seconds, made, self._config.seconds)
            )
            await self._ask(lambda store: store.sweep(self._config.size))
        except RequestError as error:
            await self._fail(video, error_body(error)["error"])
        except Exception as error:
            log.exception("video %s failed", video.id)
            await self._fail(video, {"code": "internal_error", "message": f"the server failed: {type(error).__name__}"})

    async def _fail(self, video: Video, error: dict[str, Any]) -> None:
        await self._ask(lambda store: store.fail(video.id, error, self._config.seconds))

    async def _frames(self, video: Video) -> np.ndarray:
        params = msgspec.msgpack.decode(video.params, type=GenerationParams)
        if video.reference is not None:
            picture = await opened(video.reference, "input_reference", self._service.limits.pixels)
            params = replace(params, images=[await asyncio.to_thread(as_array, picture)])
        while True:
            try:
                self._service.check_again(params)
                result = await self._service.orchestrator.generate(GenerationRequest(id=video.id, params=params))
            except RequestError as error:
                if error.kind not in PASSING:
                    raise
                await asyncio.sleep(error.retry_after or TRY_AGAIN_SECONDS)
            else:
                break
        frames = result.images[0]
        if frames.ndim != 4:
            raise RequestError("invalid", "this pipeline makes no videos")
        return frames
