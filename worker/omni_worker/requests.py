"""Generation requests and their results, as every layer from the HTTP API to the engine uses them.

They are also sent between processes and stored with video jobs: the names of the fields are part of those formats.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from omni_settings.cache import SETTINGS
from omni_settings.cache import Mode as CacheMode

SEED_LIMIT = 2**63
"""Seeds are below this."""
UNSET = -1
"""A setting of a cache that is not given."""
MIN_PENALTY, MAX_PENALTY = 0.1, 10.0
"""Clients can set a repetition penalty between these: it divides and multiplies scores, which must stay finite."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation. `role` is system, user or assistant."""

    role: str
    content: str


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an autoregressive stage samples tokens. None is the model's own default.

    temperature: 0 always takes the most likely token
    top_p, top_k: sample only from the most likely tokens, up to this probability mass or this many (0: all)
    stop: texts at which the answer ends; they are not part of it
    min_p: sample only from tokens with at least this share of the likeliest token's probability (0: all)
    repetition_penalty: divides the scores of tokens that are in the prompt or the answer; 1 changes none
    logprobs: how many of the most likely tokens to report for each token of the answer; None reports no logprobs
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


class LoraChoice(msgspec.Struct, frozen=True):
    """A LoRA adapter that a request selects, by its name.

    scale: how strongly it works; 1 is as it was trained, None the default of the adapter
    """

    name: str
    scale: float | None = None


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which model calls of a request are answered from earlier ones instead of being computed, approximately.

    The settings are those of `omni_settings.cache.Cache`. One that is not given is the mode's own.
    """

    mode: CacheMode = "skip"
    tolerance: float = UNSET
    max_consecutive: int = UNSET
    threshold: float = UNSET
    interval: int = UNSET
    order: int = UNSET
    ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, default in SETTINGS[self.mode].items():
            if getattr(self, name) == UNSET:
                msgspec.structs.force_setattr(self, name, default)

    @property
    def is_inside_model(self) -> bool:
        """Whether it is one of diffusers' caches, which answer parts of a call."""
        return self.mode not in ("none", "skip")


NO_CACHE = CacheSettings(mode="none")


class GenerationParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to generate, and how to schedule it. None is the model's own default.

    messages: the conversation, for a stage that reads one; its last message is also the `prompt`
    width, height: in pixels
    priority: a higher one runs first
    deadline_seconds: counted from when the request is submitted
    preview_every: make a preview every so many steps; 0 makes none
    exact: whether the model calls of a diffusion stage run alone, so that their rounding does not depend on others
    stream: whether the replica sends text while it is generated
    hidden_states: whether the result includes them
    written: tokens that an earlier attempt at this request generated; the answer continues after them
    embeddings: of the prompt, from the stage before, by name: float arrays of shape (tokens, width) or (tokens,)
    images: input images, uint8 of shape (height, width, 3)
    mask: the part of the first image to repaint: uint8 of shape (height, width), 255 there and 0 elsewhere
    strength: how much of the first image to change, from 0 to 1
    frames, fps: the length of a video in frames, and its frames per second
    seconds: the length of a sound
    loras: adapters of a diffusion stage, which add up
    cache: of a diffusion stage; None is the stage's own setting
    extra_args: arguments of the pipeline's call that have no field here, by name
    extra_images: those of them that are images, as `images`; one image, or several where the pipeline takes them
    """

    prompt: str
    messages: tuple[Message, ...] = ()
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    priority: int = 0
    tenant: str = ""
    deadline_seconds: float | None = None
    preview_every: int = 0
    exact: bool = False
    sampling: SamplingParams = SamplingParams()
    stream: bool = False
    hidden_states: bool = False
    written: tuple[int, ...] = ()
    embeddings: dict[str, np.ndarray] = {}
    images: list[np.ndarray] = []
    mask: np.ndarray | None = None
    strength: float | None = None
    frames: int | None = None
    fps: float | None = None
    seconds: float | None = None
    loras: tuple[LoraChoice, ...] = ()
    cache: CacheSettings | None = None
    extra_args: dict[str, Any] = {}
    extra_images: dict[str, list[np.ndarray]] = {}


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one result.

    id: unique; the head makes it, and clients cannot choose it
    client_id: what the client calls its request (`X-Request-Id`), for logs and lists only; several may have the same
    outputs: which outputs the client wants, `text` and `image`; stages after the last one that is needed do not run
    repeatable_by: the client that may get the same result again, if it sends the same request; None if the seed is new
        each time, so that nobody can
    """

    id: str
    params: GenerationParams
    outputs: frozenset[str] = frozenset({"image"})
    client_id: str | None = None
    repeatable_by: str | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token, the natural logarithm of its probability, and the most likely tokens in its place with theirs.

    raw, likeliest_raw: their own bytes, which are not always those of a text: a token can be a part of a character
    """

    token: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()
    raw: bytes = b""
    likeliest_raw: tuple[bytes, ...] = ()


def token_logprob(raw: bytes, logprob: float, likeliest: Sequence[bytes], logprobs: Sequence[float]) -> TokenLogprob:
    """The record of a token and the most likely tokens in its place, all given as their bytes."""
    texts = (one.decode(errors="replace") for one in likeliest)
    pairs = tuple(zip(texts, logprobs, strict=True))
    return TokenLogprob(raw.decode(errors="replace"), logprob, pairs, raw, tuple(likeliest))


class GeneratedText(msgspec.Struct, frozen=True, kw_only=True):
    """What an autoregressive stage generated, all of it or one piece of a stream.

    text: only what is final, so that the pieces of a stream, joined, are the complete text
    """

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] = []


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A complete text answer. `finish_reason` is `stop` (end token or stop text) or `length` (token limit).

    unlisted_tokens: how many tokens it has that `written` does not list: a server outside the pipeline only counts them
    """

    written: GeneratedText
    finish_reason: str
    prompt_tokens: int
    unlisted_tokens: int = 0

    @property
    def token_count(self) -> int:
        """How many tokens the answer has."""
        return len(self.written.tokens) + self.unlisted_tokens


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """A sound: `samples` in float32 of shape (channels, samples), where 1 is full scale, `rate` of them a second."""

    samples: np.ndarray
    rate: int


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a request, or of one of its stages.

    images: uint8 of shape (height, width, channels); a video has shape (frames, height, width, channels)
    sound: of a pipeline that makes sound
    completion: of an autoregressive stage
    embeddings: for the next stage, float32 by name. Those of a text answer are `prompt_hidden_states`
        (prompt tokens, width) and `output_hidden_states` (output tokens, width), whose row i is the state that output
        token i was sampled from
    """

    images: list[np.ndarray] = []
    sound: Sound | None = None
    steps: int = 0
    completion: Completion | None = None
    embeddings: dict[str, np.ndarray] = {}
