"""One stage of one request, over all of its runs: what it was given, what has come of it, and who listens."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from omni_worker.orchestrator.result_check import is_image
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.replica.wire.messages import Partial, Progress
from omni_worker.requests import GeneratedText, GenerationParams, GenerationResult
from omni_worker.telemetry.journal import StageVisit

OnPartial = Callable[[Partial], None]


@dataclass
class RunningRequest:
    """Where a request is now. `state` is `waiting` (for a replica) or `running`.

    client_id: what the client calls it, if it does
    """

    id: str
    stage: str = ""
    replica: str = ""
    step: int = 0
    total_steps: int = 0
    state: str = "waiting"
    client_id: str | None = None


@dataclass
class StageTask:
    """A request at one stage.

    began: when it came to the stage, on the monotonic clock
    sent_tokens, sent_characters: the output that the listener has; the next run continues after these tokens
    counted_tokens: how many of this run's tokens are in the stage's count
    """

    pool: StagePool
    params: GenerationParams
    running: RunningRequest
    on_partial: OnPartial | None
    visit: StageVisit
    began: float = field(default_factory=time.monotonic)
    sent_tokens: list[int] = field(default_factory=list)
    sent_characters: int = 0
    counted_tokens: int = 0

    def start_run(self) -> GenerationParams:
        """The parameters of the next run: without the tokens that exist, and with the time that is left."""
        deadline = self.params.deadline_seconds
        self.counted_tokens = len(self.sent_tokens)
        return replace(
            self.params,
            written=tuple(self.sent_tokens),
            deadline_seconds=None if deadline is None else deadline - (time.monotonic() - self.began),
        )

    def on_update(self, update: Progress | Partial) -> None:
        """Record progress, and pass a partial result to the listener, unless its preview is no image."""
        if isinstance(update, Progress):
            self.running.step, self.running.total_steps = update.step, update.total_steps
            self.visit.steps = update.step
            if self.pool.stage.writes:
                self._count_tokens(update.step)
            return
        if not all(map(is_image, update.preview)):
            return
        if update.written is not None:
            self.sent_tokens += update.written.tokens
            self.sent_characters += len(update.written.text)
        if self.on_partial is not None:
            self.on_partial(update)

    def on_result(self, result: GenerationResult) -> None:
        """Count the stage's output, and pass the end of its text, which comes only with the result, to the listener."""
        self.visit.steps = max(self.visit.steps, result.steps)
        self.pool.images += len(result.images)
        if result.completion is None:
            return
        text, sent = result.completion.written, len(self.sent_tokens)
        self._count_tokens(result.completion.token_count)
        if self.on_partial is None or not self.params.stream:
            return
        rest = GeneratedText(
            text=text.text[self.sent_characters :], tokens=text.tokens[sent:], logprobs=text.logprobs[sent:]
        )
        if rest.text or rest.tokens:
            self.on_partial(Partial(self.running.id, written=rest))

    def _count_tokens(self, tokens: int) -> None:
        self.pool.tokens += max(0, tokens - self.counted_tokens)
        self.counted_tokens = max(tokens, self.counted_tokens)
