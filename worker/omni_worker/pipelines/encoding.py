"""The text encoding of a pipeline on one stage, the rest of it on another, for any pipeline that has `encode_prompt`.

The encoding stage runs the pipeline's own call, with nothing in the place of its denoiser and VAE, and records what
each `encode_prompt` returned; the other stage runs the same call, with nothing in the place of its text encoders, and
plays that back. So both go the way that the whole pipeline goes, and nothing has to be known of its family.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.embeddings import flattened
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import GenerationResult


class EncodingIsOver(Exception):
    """A part was used that comes after the encoding, and is not there."""


class Absent:
    """Stands for a model that is not loaded: it has its configuration, and ends the run where more is wanted."""

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise EncodingIsOver

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise EncodingIsOver


class PromptEncoder(InterceptedPipeline):
    """A step pipeline that ends where the encoding does; its result has embeddings and no pictures."""

    def __init__(self, pipe: Any, defaults: ServingDefaults | None = None) -> None:
        super().__init__(pipe, defaults)
        self.card = self._arguments.card(pipe, mode="encode")

    def post_decode(self, state: StepState) -> GenerationResult:
        return GenerationResult(embeddings=flattened(state.extra["output"]))

    def _call(self, shell: Any, kwargs: dict[str, Any], embeddings: Mapping[str, np.ndarray]) -> Any:
        made: list[Any] = []
        encode = shell.encode_prompt

        def record(*args: Any, **kwargs: Any) -> Any:
            made.append(encode(*args, **kwargs))
            return made[-1]

        vars(shell)["encode_prompt"] = record
        with contextlib.suppress(EncodingIsOver):
            shell(**kwargs)
        return made
