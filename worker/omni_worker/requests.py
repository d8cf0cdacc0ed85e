"""A generation request and its result, as every layer from the HTTP API to the engine knows them."""

from typing import Any

import msgspec
import numpy as np

SEED_LIMIT = 2**63


class GenerationParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to generate, and how it is to be scheduled. A field that is None takes the model's own default.

    Sizes are in pixels; the deadline is in seconds from when the request is handed in; a higher priority goes first; a
    preview is made every `preview_every` steps (0: none).
    """

    prompt: str
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


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One picture to be made: `id` is unique among the requests that run at one time."""

    id: str
    params: GenerationParams


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a request gave: `images` are uint8 arrays of shape (height, width, channels)."""

    images: list[np.ndarray]
    steps: int = 0


class ServingDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model is served with where a request says nothing: the `defaults` of a model folder's `omni.json`."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None

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
        )


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a loaded model can do; a replica tells the head when it registers."""

    pipeline: str
    mode: str
    defaults: ServingDefaults = ServingDefaults()
    negative_prompt: bool = False
    guidance: bool = False
    sized: bool = False
    size_multiple: int = 1
