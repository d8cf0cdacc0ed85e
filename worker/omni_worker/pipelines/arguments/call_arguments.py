"""Converts generation parameters to the keyword arguments of a diffusers pipeline's call."""

import inspect
from typing import Any

import torch

from omni_worker.errors import RequestError
from omni_worker.model_card import ModelCard, ServingDefaults
from omni_worker.pipelines.arguments import audio, images
from omni_worker.pipelines.arguments.embeddings import STRUCTURE, embedding_arguments
from omni_worker.pipelines.arguments.extra_arguments import ExtraArguments
from omni_worker.pipelines.arguments.results import output_type_of
from omni_worker.pipelines.components import denoisers, models
from omni_worker.pipelines.modular import ModularCall
from omni_worker.requests import GenerationParams

EMPTY_PROMPT = " "
FIELD_ARGUMENTS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    *images.MEDIA_ARGUMENTS,
)
"""The arguments that fields of a request set."""


class CallArguments:
    """The arguments that one pipeline takes. They are read once, from its signature."""

    def __init__(self, pipe: Any, defaults: ServingDefaults) -> None:
        self._parameters = inspect.signature(type(pipe).__call__).parameters
        self._accepted = frozenset(self._parameters)
        self._defaults = defaults
        self._guidance = self._guidance_argument(pipe)
        self._output_type, self._is_modular = output_type_of(pipe), isinstance(pipe, ModularCall)
        self._seconds = audio.seconds_argument(pipe, self._parameters)
        taken = {*FIELD_ARGUMENTS, self._guidance or "guidance_scale", self._seconds or ""}
        self._extra = ExtraArguments(type(pipe).__call__, self._parameters, taken)
        self._card = self.card(pipe, "")
        self.denoiser = next((models(pipe)[name] for name in denoisers(pipe)), None)

    def _guidance_argument(self, pipe: Any) -> str | None:
        # Models distilled for guidance take it as an input. For other models, `true_cfg_scale`, if there is one, is the
        # scale that weighs the two predictions.
        distilled = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "guidance_embeds", False)
        names = ("guidance_scale",) if distilled else ("true_cfg_scale", "guidance_scale")
        return next((name for name in names if name in self._accepted), None)

    def card(self, pipe: Any, mode: str) -> ModelCard:
        """The card of this pipeline: what a request can contain."""
        sound = audio.sound_fields(pipe, self._parameters)
        width, height = (None, None) if sound else images.default_size(pipe, self._parameters)
        processor = getattr(pipe, "image_processor", getattr(pipe, "video_processor", None))
        return ModelCard(
            pipeline=type(pipe).__name__,
            mode=mode,
            defaults=self._defaults,
            negative_prompt="negative_prompt" in self._accepted,
            guidance=self._guidance is not None,
            sized={"width", "height"} <= self._accepted,
            width=self._defaults.width or width,
            height=self._defaults.height or height,
            size_multiple=max(1, int(getattr(getattr(processor, "config", None), "vae_scale_factor", 1))),
            steps=self._defaults.num_inference_steps or images.default_steps(self._parameters),
            arguments=tuple(self._extra.arguments.values()),
            **(images.accepted_media(pipe, self._parameters) | sound | self._defaults.length_fields),
        )

    def fewest_steps(self, params: GenerationParams) -> int:
        """The smallest number of steps to request so that the pipeline runs at least one."""
        return images.fewest_steps(self._defaults.fill(params).strength, self._parameters)

    def build(self, params: GenerationParams) -> dict[str, Any]:
        """The keyword arguments. Raises RequestError if the pipeline does not support what the request contains."""
        if params.negative_prompt and "negative_prompt" not in self._accepted:
            raise RequestError("invalid", "this model takes no negative prompt", "negative_prompt")
        if params.images and not any(name in self._accepted for name in images.IMAGE_ARGUMENTS):
            raise RequestError("invalid", "this model takes no image to start from", "image")
        params = self._defaults.fill(params)
        requested = {
            "prompt": params.prompt,
            "negative_prompt": params.negative_prompt,
            "width": params.width,
            "height": params.height,
            "num_inference_steps": params.steps,
            self._guidance or "guidance_scale": params.guidance,
        }
        kwargs: dict[str, Any] = {
            name: value for name, value in requested.items() if value is not None and name in self._accepted
        }
        self._card.check_strength(params)
        self._card.check_arguments(params.extra_args, params.extra_images)
        kwargs |= self._extra.build(params)
        kwargs |= images.media_arguments(params, self._parameters)
        kwargs |= audio.seconds_arguments(self._seconds, params)
        if self._guidance == "true_cfg_scale" and (params.guidance or 0.0) > 1.0:
            kwargs.setdefault("negative_prompt", EMPTY_PROMPT)  # without one, such a pipeline ignores the scale
        if params.embeddings and STRUCTURE not in params.embeddings:
            kwargs = kwargs | {"prompt": None} | embedding_arguments(params.embeddings, self._accepted, self.denoiser)
        if "generator" in self._accepted:
            kwargs["generator"] = torch.Generator("cpu").manual_seed(params.seed)
        if "output_type" in self._accepted:
            pastes = self._is_modular and params.mask is not None  # which modular pipelines do with PIL's images only
            kwargs["output_type"] = "pil" if pastes else self._output_type
        return kwargs
