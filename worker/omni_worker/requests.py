"""A generation request and its result, as every layer from the HTTP API to the engine knows them."""

from typing import Any

import msgspec
import numpy as np

SEED_LIMIT = 2**63


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation: `role` is system, user or assistant."""

    role: str
    content: str


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an autoregressive stage writes. A field that is None takes the model's own default.

    temperature: 0 takes the likeliest token every time
    top_p, top_k: draw only from the likeliest tokens, up to this share of the probability or this many (0: all)
    stop: texts that end the answer where they begin
    logprobs: how many of the likeliest tokens are told at every place; None tells nothing
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


class GenerationParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to generate, and how it is to be scheduled. A field that is None takes the model's own default.

    Sizes are in pixels; the deadline is in seconds from when the request is handed in; a higher priority goes first; a
    preview is made every `preview_every` steps (0: none).

    messages: the conversation so far, for a stage that can read one; its last turn is also the `prompt`
    stream: whether what is written is to be told as it is written
    hidden_states: whether the result is to carry them
    written: tokens that an earlier attempt at this request wrote; the answer goes on after them
    embeddings: what the stage before made of the prompt, by name: float arrays of shape (tokens, width) or (tokens,)
    images: pictures to start from, uint8 arrays of shape (height, width, 3)
    mask: where the first of them is to be painted over: uint8 of shape (height, width), 255 there and 0 elsewhere
    strength: how much of it is to change, from 0 to 1
    frames, fps: how long a video is to be, in frames, and how many of them go into a second
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


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to be made: `id` is unique among the requests that run at one time.

    outputs: what is wanted of it, `text` and `image`; the stages after the last that is needed are left out
    """

    id: str
    params: GenerationParams
    outputs: frozenset[str] = frozenset({"image"})


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token, the natural logarithm of its probability, and the likeliest at its place with theirs."""

    token: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What an autoregressive stage wrote, or went on to write: `text` is all of it that is certain by now, so that
    pieces put one after another are the whole."""

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] = []


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer in text. `finish_reason`: `stop` (the model's end, or a text to stop at) or `length`."""

    written: Written
    finish_reason: str
    prompt_tokens: int


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a request gave.

    images: uint8 arrays of shape (height, width, channels), or (frames, height, width, channels) where it is a video
    completion: of an autoregressive stage
    embeddings: for the next stage, where that takes them; float32 arrays by name. Those of a written answer are
        `prompt_hidden_states` (prompt tokens, width) and `output_hidden_states` (output tokens, width), of which row i
        is the state that output token i was drawn from
    """

    images: list[np.ndarray] = []
    steps: int = 0
    completion: Completion | None = None
    embeddings: dict[str, np.ndarray] = {}


class ServingDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model is served with where a request says nothing: the `defaults` of a model folder's `omni.json`."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    strength: float | None = None

    @property
    def of_videos(self) -> dict[str, Any]:
        """Those that tell how long a video is, as fields of a ModelCard."""
        asked = {"frames": self.num_frames, "fps": self.fps}
        return {name: value for name, value in asked.items() if value is not None}

    def fill(self, params: GenerationParams) -> GenerationParams:
        """`params` with its empty fields taken from here."""

        def either(asked: Any, default: Any) -> Any:
            return default if asked is None else asked

        return msgspec.structs.replace(
            params,
            steps=either(params.steps, self.num_inference_steps),
            guidance=either(params.guidance, self.guidance_scale),
            negative_prompt=either(params.negative_prompt, self.negative_prompt),
            width=either(params.width, self.width),
            height=either(params.height, self.height),
            frames=either(params.frames, self.num_frames),
            fps=either(params.fps, self.fps),
            strength=either(params.strength, self.strength),
        )


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a loaded model can do; a replica tells the head when it registers.

    pipeline: its class
    mode: how a replica runs it: `step`, `request`, `generate` (it writes) or `encode` (it makes embeddings of a prompt)
    context_length: tokens of prompt and answer together, of a model that writes; None has no bound
    image: whether it starts from pictures: `none`, `one`, `several`; `needs_image`: whether it must be given one
    mask, strength: whether it takes these with a picture
    steps: what it takes where nothing is said; None where that is not known
    video: whether it makes videos, of `frames` frames, `fps` a second, where nothing is said; a count of frames is one
        more than a multiple of `frame_multiple`
    """

    pipeline: str
    mode: str
    context_length: int | None = None
    defaults: ServingDefaults = ServingDefaults()
    negative_prompt: bool = False
    guidance: bool = False
    sized: bool = False
    size_multiple: int = 1
    image: str = "none"
    needs_image: bool = False
    mask: bool = False
    strength: bool = False
    steps: int | None = None
    video: bool = False
    frames: int | None = None
    fps: float = 16.0
    frame_multiple: int = 1
