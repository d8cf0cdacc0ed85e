"""Runs a pipeline's text encoding on one stage and the rest of it on another, for any pipeline with `encode_prompt`.

The encoding stage runs the pipeline's own call without its denoiser and VAE, and records what each `encode_prompt`
returned. The other stage runs the same call without the text encoders, and replays these results. Both stages take the
path of the complete pipeline, so no code depends on the model family.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.adapter_layers import Selection
from omni_worker.pipelines.arguments.embeddings import flatten
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.offload import ComponentOffload
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import GenerationParams, GenerationResult


class EncodingFinished(Exception):
    """The pipeline used a model that is not loaded, so the encoding is over."""


class UnloadedModel:
    """Replaces a model that is not loaded. It has the model's configuration; any other use raises EncodingFinished."""

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise EncodingFinished

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise EncodingFinished


class PromptEncoder(InterceptedPipeline):
    """A step pipeline that ends after the text encoding. Its result has embeddings and no images."""

    def __init__(
        self,
        pipe: Any,
        defaults: ServingDefaults | None = None,
        offload: ComponentOffload | None = None,
        prompt_cache_bytes: int = 0,
    ) -> None:
        super().__init__(pipe, defaults, offload=offload, prompt_cache_bytes=prompt_cache_bytes)
        self.card = self._arguments.card(pipe, mode="encode")

    def _call(self, pipe: Any, kwargs: dict[str, Any], embeddings: Mapping[str, np.ndarray]) -> Any:
        recorded: list[Any] = []
        encode = pipe.encode_prompt

        def record(*args: Any, **kwargs: Any) -> Any:
            recorded.append(encode(*args, **kwargs))
            return recorded[-1]

        vars(pipe)["encode_prompt"] = record
        with contextlib.suppress(EncodingFinished):
            pipe(**kwargs)
        return recorded

    def _select(self, params: GenerationParams) -> Selection:
        """Those of a request's adapters that are loaded here: many have no weights for a text encoder."""
        return self.adapters.select([one for one in params.loras if one.name in self.adapters.names])

    def _result(self, state: StepState, output: Any) -> GenerationResult:
        return GenerationResult(embeddings=flatten(output))
