"""A picture while it is made: previews of the running request, then the picture, as OpenAI's server-sent events."""

import math
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
from msgspec.structs import replace

from omni_worker.api.images.encoding import in_base64, picture_of
from omni_worker.api.images.schemas import ImageEvent, ImageRequest, ImageUsage, InputTokens
from omni_worker.api.streams import KEEP_ALIVE, Stream, event
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.replica.wire.messages import Partial
from omni_worker.requests import GenerationRequest, GenerationResult

FEW_STEPS = 10  # between two previews, where it is not known how many there will be


class ImageStream(Stream):
    """The events of one picture; their names begin with `family`. Of previews that come faster than they are read only
    the last is shown."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        request: GenerationRequest,
        body: ImageRequest,
        family: str,
        usual_steps: int | None,
    ) -> None:
        super().__init__()
        self._orchestrator = orchestrator
        self._previews_wanted = body.partial_images or 0
        every = _between_previews(request.params.steps or usual_steps, self._previews_wanted)
        self._request = replace(request, params=replace(request.params, preview_every=every))
        self._body = body
        self._family = family
        self._preview: np.ndarray | None = None
        self._result: GenerationResult | None = None

    async def events(self) -> AsyncIterator[str]:
        """The events; closed, it aborts the request."""
        shown = 0
        try:
            while self._result is None:
                if not await self._more():
                    yield KEEP_ALIVE
                    continue
                self._news.clear()
                if (failure := self._failure) is not None:
                    yield event(failure, "error")
                    return
                preview, self._preview = self._preview, None
                if preview is not None and self._result is None and shown < self._previews_wanted:
                    yield await self._event("partial_image", preview, partial_image_index=shown)
                    shown += 1
            picture, usage = picture_of(self._result), usage_of([self._result])
            yield await self._event("completed", picture, usage=usage, seed=self._request.params.seed)
        finally:
            await self.stop()

    async def _generate(self) -> None:
        def take(partial: Partial) -> None:
            if partial.preview:
                self._preview = partial.preview[0]
                self._news.set()

        result = await self._orchestrator.generate(self._request, take)
        picture_of(result)
        self._result = result

    async def _event(self, kind: str, picture: np.ndarray, **more: object) -> str:
        (file,) = await in_base64([picture], self._body.format, self._body.output_compression)
        height, width = picture.shape[:2]
        made = ImageEvent.model_validate(
            {
                "type": f"{self._family}.{kind}",
                "b64_json": file,
                "created_at": int(time.time()),
                "output_format": self._body.format,
                "quality": self._body.level,
                "size": f"{width}x{height}",
                **more,
            }
        )
        return event(made.fields, made.type)


def _between_previews(steps: int | None, wanted: int) -> int:
    """Every how many steps there is to be a preview, so that there are as many as are wanted, evenly spread."""
    if not wanted:
        return 0
    return FEW_STEPS if steps is None else max(1, math.ceil(steps / (wanted + 1)))


def usage_of(results: Sequence[GenerationResult]) -> ImageUsage:
    """The tokens that stages which read and write text went through."""
    completions = [result.completion for result in results if result.completion]
    read = sum(one.prompt_tokens for one in completions)
    written = sum(len(one.written.tokens) for one in completions)
    return ImageUsage(
        input_tokens=read,
        input_tokens_details=InputTokens(text_tokens=read),
        output_tokens=written,
        total_tokens=read + written,
    )
