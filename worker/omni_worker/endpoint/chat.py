"""A request as a chat completion of OpenAI's API, and the answer from the chunks of its stream. Pure."""

from typing import Annotated, Any

import msgspec

from omni_worker.config.endpoint import Endpoint
from omni_worker.endpoint.failures import EndpointFailure, ServerError, from_event, shown
from omni_worker.requests import (
    Completion,
    GeneratedText,
    GenerationParams,
    GenerationResult,
    Message,
    SamplingParams,
    TokenLogprob,
    token_logprob,
)

PASSED_ON = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Sampling parameters that have the same name there. OpenAI itself knows the first three; vLLM and SGLang know all."""


def chat_body(endpoint: Endpoint, params: GenerationParams) -> dict[str, Any]:
    """The body of POST /chat/completions. What the request leaves open is left to the server."""
    messages = params.messages or (Message(role="user", content=params.prompt),)
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "seed": params.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(params.sampling),
    }
    return body


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    given = {name: value for name in PASSED_ON if (value := getattr(sampling, name)) is not None}
    if sampling.stop:
        given["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        given |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    return given


# ---- the chunks of an answer: only what is read of them


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the most likely tokens."""

    token: str
    logprob: float
    numbers: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = msgspec.field(default=None, name="bytes")

    @property
    def raw(self) -> bytes:
        """The token's own bytes."""
        return self.token.encode(errors="replace") if self.numbers is None else bytes(self.numbers)


class Logprob(TopLogprob, frozen=True):
    """A token of the answer."""

    top_logprobs: list[TopLogprob] = []


class Logprobs(msgspec.Struct, frozen=True):
    """The tokens of a chunk."""

    content: list[Logprob] | None = None


class Delta(msgspec.Struct, frozen=True):
    """The text of a chunk."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """The answer's next piece."""

    delta: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Usage(msgspec.Struct, frozen=True):
    """How many tokens were read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """One event of the stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: ServerError | str | None = None


_CHUNKS = msgspec.json.Decoder(Chunk)


class Answer:
    """An answer that is being written.

    pieces: how many chunks had text or tokens
    finish_reason: why it ended; None until the server says so
    """

    def __init__(self, key: str | None = None) -> None:
        self.pieces = 0
        self.finish_reason: str | None = None
        self._key = key
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._usage: Usage | None = None

    def add(self, event: bytes) -> GeneratedText | None:
        """Take the data of the next event, and return the text in it, if any. Raises EndpointFailure."""
        chunk = self._decode(event)
        if chunk.error is not None:
            error = ServerError(chunk.error) if isinstance(chunk.error, str) else chunk.error
            raise from_event(error, self._key)
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        text = (choice.delta.content if choice.delta else None) or ""
        tokens = (choice.logprobs.content if choice.logprobs else None) or []
        if not text and not tokens:
            return None
        piece = GeneratedText(text=text, tokens=[], logprobs=[_token(token) for token in tokens])
        self.pieces += 1
        self._texts.append(text)
        self._logprobs += piece.logprobs
        return piece

    def result(self) -> GenerationResult:
        """The complete answer. Raises EndpointFailure if a filter of the server has withheld it."""
        text = "".join(self._texts)
        if self.finish_reason not in ("stop", "length", None) and not text:
            raise EndpointFailure("failed", f"gave no text: its finish_reason is {shown(str(self.finish_reason))!r}")
        usage = self._usage or Usage(completion_tokens=len(self._logprobs) or self.pieces)
        completion = Completion(
            written=GeneratedText(text=text, tokens=[], logprobs=self._logprobs),
            finish_reason="length" if self.finish_reason == "length" else "stop",
            prompt_tokens=max(0, usage.prompt_tokens),
            unlisted_tokens=max(0, usage.completion_tokens),
        )
        return GenerationResult(steps=completion.token_count, completion=completion)

    def _decode(self, event: bytes) -> Chunk:
        try:
            return _CHUNKS.decode(event)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            said = shown(event.decode(errors="replace"), self._key)
            problem = f"sent what is no chunk of a chat completion ({shown(str(error))}): {said}"
            raise EndpointFailure("failed", problem, is_transient=True) from None


def _token(token: Logprob) -> TokenLogprob:
    likeliest = token.top_logprobs
    return token_logprob(token.raw, token.logprob, [one.raw for one in likeliest], [one.logprob for one in likeliest])
