"""The stream of one image: previews while the request runs, then the image, as OpenAI's server-sent events."""

import math
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
from msgspec.structs import replace

from omni_worker.api.generation import count_tokens, param_names
from omni_worker.api.images.encoding import encode_base64, image_of
from omni_worker.api.images.schemas import ImageBody, ImageEvent, ImageUsage, InputTokens
from omni_worker.api.streams import KEEP_ALIVE, Stream, format_event
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.replica.wire.messages import Partial
from omni_worker.requests import GenerationRequest, GenerationResult

FALLBACK_PREVIEW_INTERVAL = 10
"""Steps between two previews if the number of steps is unknown."""


class ImageStream(Stream):
    """The events of one image. If previews arrive faster than the client reads, it gets only the latest one."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        request: GenerationRequest,
        body: ImageBody,
        event_prefix: str,
        default_steps: int | None,
    ) -> None:
        super().__init__()
        self._orchestrator = orchestrator
        self._max_previews = body.partial_images or 0
        interval = _preview_interval(request.params.steps or default_steps, self._max_previews)
        self._request = replace(request, params=replace(request.params, preview_every=interval))
        self._body = body
        self._event_prefix = event_prefix
        self._preview: np.ndarray | None = None
        self._result: GenerationResult | None = None

    async def events(self) -> AsyncIterator[str]:
        """The events. Closing the iterator aborts the request."""
        sent = 0
        try:
            while self._result is None:
                if not await self._wait_for_update():
                    yield KEEP_ALIVE
                    continue
                self._updated.clear()
                if (failure := self._failure) is not None:
                    yield format_event(failure, "error")
                    return
                preview, self._preview = self._preview, None
                if preview is not None and self._result is None and sent < self._max_previews:
                    yield await self._event("partial_image", preview, partial_image_index=sent)
                    sent += 1
            image, usage = image_of(self._result), image_usage([self._result])
            yield await self._event("completed", image, usage=usage, seed=self._request.params.seed)
        finally:
            await self.stop()

    async def _generate(self) -> None:
        def keep_preview(partial: Partial) -> None:
            if partial.preview:
                self._preview = partial.preview[0]
                self._updated.set()

        with param_names(self._body.param_names):
            result = await self._orchestrator.generate(self._request, keep_preview)
        image_of(result)  # raises for a video
        self._result = result

    async def _event(self, kind: str, image: np.ndarray, **fields: object) -> str:
        (file,) = await encode_base64([image], self._body.format, self._body.output_compression)
        height, width = image.shape[:2]
        event = ImageEvent.model_validate(
            {
                "type": f"{self._event_prefix}.{kind}",
                "b64_json": file,
                "created_at": int(time.time()),
                "output_format": self._body.format,
                "quality": self._body.effective_quality,
                "size": f"{width}x{height}",
                **fields,
            }
        )
        return format_event(event.payload, event.type)


def _preview_interval(steps: int | None, previews: int) -> int:
    """The number of steps between two previews, so that `previews` of them are spread evenly; 0 for none."""
    if not previews:
        return 0
    return FALLBACK_PREVIEW_INTERVAL if steps is None else max(1, math.ceil(steps / (previews + 1)))


def image_usage(results: Sequence[GenerationResult]) -> ImageUsage:
    """The tokens that text stages read and generated."""
    input_tokens, output_tokens = count_tokens(results)
    return ImageUsage(
        input_tokens=input_tokens,
        input_tokens_details=InputTokens(text_tokens=input_tokens),
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
    )
