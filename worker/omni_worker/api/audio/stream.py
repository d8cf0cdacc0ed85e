"""The stream of a sound as server-sent events: comments while it is generated, then the pieces of the file."""

import base64
from collections.abc import AsyncIterator

from starlette.concurrency import iterate_in_threadpool

from omni_worker.api.audio.encoding import encode_sound
from omni_worker.api.audio.schemas import SpeechEvent, SpeechRequest, SpeechUsage
from omni_worker.api.generation import count_tokens, param_names
from omni_worker.api.products import check_result
from omni_worker.api.streams import KEEP_ALIVE, Stream, format_event
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import GenerationRequest, GenerationResult


class SpeechStream(Stream):
    """The events of one sound."""

    def __init__(self, orchestrator: Orchestrator, request: GenerationRequest, body: SpeechRequest) -> None:
        super().__init__()
        self._orchestrator, self._request, self._body = orchestrator, request, body
        self._result: GenerationResult | None = None

    async def events(self) -> AsyncIterator[str]:
        """The events. Closing the iterator aborts the request."""
        try:
            while self._result is None:
                if not await self._wait_for_update():
                    yield KEEP_ALIVE
                elif (failure := self._failure) is not None:
                    yield format_event(failure, "error")
                    return
            sound = self._result.sound
            assert sound is not None
            async for piece in iterate_in_threadpool(encode_sound(sound, self._body.format)):
                delta = SpeechEvent(type="speech.audio.delta", audio=base64.b64encode(piece).decode())
                yield format_event(delta.payload, delta.type)
            done = SpeechEvent(
                type="speech.audio.done",
                usage=speech_usage(self._result),
                seed=self._request.params.seed,
                sample_rate=sound.rate,
                channels=len(sound.samples),
            )
            yield format_event(done.payload, done.type)
        finally:
            await self.stop()

    async def _generate(self) -> None:
        with param_names(self._body.param_names):
            result = await self._orchestrator.generate(self._request)
        check_result("audio", result)
        self._result = result


def speech_usage(result: GenerationResult) -> SpeechUsage:
    """The tokens that text stages read and generated."""
    input_tokens, output_tokens = count_tokens([result])
    return SpeechUsage(
        input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens
    )
