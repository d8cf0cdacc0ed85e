"""The request schema of POST /v1/chat/completions, with OpenAI's names."""

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from omni_worker.api.request_model import RequestModel, field_problem
from omni_worker.api.schemas import GenerationBody
from omni_worker.errors import RequestError
from omni_worker.requests import MAX_PENALTY, MIN_PENALTY, SEED_LIMIT, SamplingParams

MAX_TEXT = 1_000_000
"""Maximum length of one text in a message, in characters."""
MAX_PARTS, MAX_MESSAGES, MAX_STOPS, MAX_STOP = 1000, 1000, 16, 1000
"""Parts of a message, messages, stop texts, and characters of one."""
TextOrList = Discriminator(lambda value: "(list)" if isinstance(value, list) else "(text)")
"""Chooses between Tag("(text)") and Tag("(list)"), so that errors are those of what was sent."""


class TextPart(RequestModel):
    """A piece of a message."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class RefusalPart(RequestModel):
    """A refusal of an assistant, from an earlier answer. Counts as its text."""

    type: Literal["refusal"]
    refusal: Annotated[str, Field(max_length=MAX_TEXT)]


class ImageUrl(RequestModel):
    """Where a picture is."""

    url: Annotated[
        str,
        Field(
            description="The picture itself, as `data:image/png;base64,…`; other addresses are refused, for the server "
            "fetches nothing."
        ),
    ]
    detail: Annotated[Literal["auto", "low", "high", "original"] | None, Field(description="Taken and not used.")] = (
        None
    )


class ImagePart(RequestModel):
    """A picture in a message. The stages that draw start from the newest ones of the conversation."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[
    Annotated[TextPart, Tag("(text)")]
    | Annotated[ImagePart, Tag("(image_url)")]
    | Annotated[RefusalPart, Tag("(refusal)")],
    Discriminator(lambda part: f"({part.get('type')})" if isinstance(part, dict) else "()"),
]
Content = Annotated[
    Annotated[str, Field(max_length=MAX_TEXT), Tag("(text)")]
    | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True), Tag("(list)")],
    TextOrList,
]
StopText = Annotated[str, Field(max_length=MAX_STOP)]


class ChatMessage(RequestModel):
    """A turn of the conversation. Answers of OpenAI's API and of this one can be sent back as they came."""

    UNSUPPORTED: ClassVar = {
        "audio": (),
        "tool_calls": ([],),
        "function_call": (),
        "annotations": ([],),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    refusal: Annotated[
        str | None, Field(max_length=MAX_TEXT, description="Of an assistant: its text if it has no content.")
    ] = None
    name: Annotated[str | None, Field(max_length=256, description="Taken and not used.")] = None

    @model_validator(mode="after")
    def _require_content(self) -> "ChatMessage":
        if self.content is None and not (self.role == "assistant" and self.refusal):
            raise field_problem("content", "missing", "missing_parameter")
        return self

    @property
    def text(self) -> str:
        """The text of the message; its parts are joined."""
        if not isinstance(self.content, list):
            return self.content or self.refusal or ""
        texts = (part.refusal if isinstance(part, RefusalPart) else part.text for part in self._text_parts)
        return "".join(texts)

    @property
    def _text_parts(self) -> list[TextPart | RefusalPart]:
        return [part for part in self._parts if not isinstance(part, ImagePart)]

    @property
    def _parts(self) -> list[TextPart | ImagePart | RefusalPart]:
        return self.content if isinstance(self.content, list) else []

    @property
    def image_urls(self) -> list[str]:
        """The URLs of the images in the message."""
        return [part.image_url.url for part in self._parts if isinstance(part, ImagePart)]


class StreamOptions(RequestModel):
    """What else a stream tells."""

    UNSUPPORTED: ClassVar = {"include_obfuscation": (False,)}

    include_usage: bool = False


class ChatRequest(GenerationBody):
    """Body of POST /v1/chat/completions."""

    UNSUPPORTED: ClassVar = {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "logit_bias": ({},),
        "metadata": ({},),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "prediction": (),
        "audio": (),
        "web_search_options": (),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    n: Annotated[int | None, Field(ge=1, description="How many answers, `--max-n` at most.")] = 1
    modalities: Annotated[
        list[Literal["text", "image"]] | None,
        Field(min_length=1, max_length=2, description="What is wanted: text unless the pipeline gives only pictures."),
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=1_000_000, description="Tokens to write at most.")] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=1_000_000, description="The same.")] = None
    temperature: Annotated[
        float | None, Field(ge=0, le=2, allow_inf_nan=False, description="0 takes the likeliest token every time.")
    ] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, description="Share of the probability to draw from.")] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000, description="How many tokens to draw from; 0: all.")] = None
    min_p: Annotated[
        float | None,
        Field(ge=0, le=1, description="Share of the likeliest token's probability that a token needs; 0: none."),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        Field(
            ge=MIN_PENALTY,
            le=MAX_PENALTY,
            description="Above 1, tokens that already occur become less likely; 1 changes nothing.",
        ),
    ] = None
    stop: Annotated[
        Annotated[
            Annotated[StopText, Tag("(text)")]
            | Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True), Tag("(list)")],
            TextOrList,
        ]
        | None,
        Field(description=f"Texts that end the answer, {MAX_STOPS} at most."),
    ] = None
    prompt_cache_key: Annotated[str | None, Field(max_length=256, description="Taken and not used.")] = None
    logprobs: Annotated[bool | None, Field(description="Tell the probability of every token.")] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20, description="And of the likeliest at its place.")] = None
    stream: Annotated[bool | None, Field(description="Tell the answer as it is written, as server-sent events.")] = (
        False
    )
    stream_options: StreamOptions | None = None
    seed: Annotated[
        int | None,
        Field(
            ge=-SEED_LIMIT,
            lt=SEED_LIMIT,
            description="Any integer of 64 bits. The same seed gives the same answer; answer i of n has seed + i. "
            "Random if left out.",
        ),
    ] = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0, description="Only 0.")] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0, description="Only 0.")] = None

    @model_validator(mode="after")
    def _check_combinations(self) -> "ChatRequest":
        if not self.messages[-1].text:
            raise RequestError("invalid", "messages: the last message has no text", "messages")
        if self.top_logprobs and not self.logprobs:
            raise RequestError("invalid", "top_logprobs: needs logprobs: true", "top_logprobs")
        if self.stream_options is not None and self.stream_options.include_usage and not self.stream:
            raise RequestError("invalid", "stream_options: needs stream: true", "stream_options")
        return self

    @property
    def param_names(self) -> dict[str, str]:
        """What the client calls the parameters that stages and cards name in their errors."""
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        own = {"messages": "messages", "prompt": "messages", "image": "messages", "max_tokens": limit}
        return super().param_names | own

    @property
    def count(self) -> int:
        """How many choices the request asks for."""
        return self.n or 1

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters of a text stage."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=tuple(filter(None, stop)),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
