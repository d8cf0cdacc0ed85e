"""The served pipeline as the routes see it: what it can do, and the checks that refuse a request at once."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from omni_worker.api import extra_args
from omni_worker.api.errors import ApiError
from omni_worker.api.extra_args import check_extra_args
from omni_worker.api.images.decoding import DecodedImages, ImageDecoder
from omni_worker.api.images.sizes import size_like
from omni_worker.api.products import check_product
from omni_worker.api.schemas import GenerationBody
from omni_worker.config.api import Limits
from omni_worker.errors import CONTEXT_LENGTH_EXCEEDED, RequestError
from omni_worker.model_card import ModelCard
from omni_worker.orchestrator.handover import outputs_of
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import GenerationParams, LoraChoice

PROMPTS = ("prompt", "messages")
NO_GUIDANCE = (0.0, 1.0)
"""Guidance scales that ask for nothing, so that every model takes them."""


@dataclass(frozen=True)
class RouteInputs:
    """What a route reads from a request in addition to the fields of GenerationBody.

    prompt: the text whose length is limited
    count: how many results the request asks for
    image_count: of the input images
    has_mask: whether it has a mask beside them
    strength: as in GenerationParams
    product: what the route generates: `image`, `video` or `audio`
    seconds: how long the sound is that the request asks for
    image_field: the field with the input images
    image_hint: how to send an image to this route, for error messages
    conversation: the characters of all messages, if they are answered with text
    """

    prompt: str
    count: int = 1
    image_count: int = 0
    has_mask: bool = False
    strength: float | None = None
    product: str = "image"
    seconds: float | None = None
    image_field: str = "image"
    image_hint: str = "POST /v1/images/edits takes one"
    conversation: int = 0


@dataclass(frozen=True)
class Service:
    """The pipeline, served under the name `model` and within `limits`."""

    orchestrator: Orchestrator
    model: str
    limits: Limits = field(default_factory=Limits)

    @property
    def outputs(self) -> frozenset[str]:
        """The outputs that the pipeline can give: `text`, `image`."""
        return outputs_of([pool.stage for pool in self.orchestrator.pools])

    @property
    def cards(self) -> Iterator[ModelCard]:
        """The cards of the diffusion stages. A stage without a replica that is up is left out."""
        for pool in self.orchestrator.pools:
            if pool.stage.engine == "diffusion":
                yield from (member.replica.card for member in pool.up[:1])

    @property
    def card(self) -> ModelCard | None:
        """The card of the last diffusion stage, if it is known."""
        return next(reversed(list(self.cards)), None)

    @property
    def takes_mask(self) -> bool:
        """Whether the pipeline takes a mask, so that transparent parts of an input image count as one."""
        return self.card is not None and self.card.mask

    @functools.cached_property
    def _decoder(self) -> ImageDecoder:
        return ImageDecoder(self.limits.pixels)

    async def decode_images(
        self, body: GenerationBody, files: Sequence[bytes], field: str, masks: Sequence[bytes] = ()
    ) -> DecodedImages:
        """The input images of a request that passed `check`. Raises RequestError, naming the field."""
        card, (width, height) = self.card, body.width_and_height
        scale_to = (width, height) if width and height and card and not card.sized else None
        decoded = await self._decoder.decode(files, field, masks, scale_to, self.takes_mask)
        if self.takes_mask and files and decoded.mask is None:
            name = card.pipeline if card else "the model"
            message = f"{name} repaints where the image is transparent: send a mask, or an image with transparent parts"
            raise RequestError("invalid", message, "mask")
        return decoded

    async def decode_reference(self, file: bytes) -> DecodedImages:
        """The input image of a video job, for which `decode_images` was called before. Raises RequestError."""
        return await self._decoder.decode([file], "input_reference")

    async def with_decoded_images(self, params: GenerationParams) -> GenerationParams:
        """The parameters of a request that passed `check`, with the images of its `extra_args`. Raises RequestError."""
        return await extra_args.with_decoded_images(params, self._decoder)

    def sized_like(self, params: GenerationParams, image: tuple[int, int] | None) -> GenerationParams:
        """`params` with the shape of its first input image, of this width and height, if it has no size of its own."""
        card = self.card
        if image is None or params.width or params.height or card is None or not card.sized:
            return params
        width, height = size_like(image, card, self.limits.pixels)
        return replace(params, width=width, height=height)

    def check(self, body: GenerationBody, inputs: RouteInputs) -> None:
        """Refuse at once what a stage would refuse later, and before anything is decoded.

        Raises ApiError or RequestError, naming the field.
        """
        self._check_model_name(body)
        self._check_limits(body, inputs)
        for card in self.cards:
            _check_card(body, inputs, card)
            check_extra_args(body.extra_args or {}, card, self.limits)

    def check_params(self, params: GenerationParams) -> None:
        """Check what follows from several fields together. Raises RequestError, naming the field."""
        for card in self.cards:
            card.check_strength(params)

    def check_text(self, body: GenerationBody, inputs: RouteInputs) -> None:
        """The same for a request that needs no diffusion stage. Raises ApiError or RequestError, naming the field."""
        if body.extra_args:
            message = "extra_args: they are for requests for images: ask for the modality image, where there is one"
            raise RequestError("invalid", message, "extra_args")
        self._check_model_name(body)
        self._check_limits(body, inputs)

    def check_video_job(self, params: GenerationParams) -> None:
        """Check a video job before it runs: it may have been accepted before the cards were known.

        Raises RequestError, naming the field.
        """
        for card in self.cards:
            check_product("video", card.product, card.pipeline)
            if card.needs_image and not params.images:
                raise RequestError("invalid", f"{card.pipeline} starts from a picture", "input_reference")

    @property
    def adapters(self) -> list[str]:
        """The names of the LoRA adapters that a replica has, sorted."""
        pools = [pool for pool in self.orchestrator.pools if pool.stage.engine == "diffusion"]
        held = {name for pool in pools for member in pool.up for name in member.replica.card.loras}
        return sorted(name for name in held if self.orchestrator.loras.why_unusable(name) is None)

    def params_of(self, body: GenerationBody) -> dict[str, Any]:
        """The fields of a request that passed `check` as fields of GenerationParams, without the seed."""
        choices = [LoraChoice(lora.name, lora.scale) for lora in body.loras or ()]
        if body.model is not None and body.model not in (self.model, *(choice.name for choice in choices)):
            choices.append(LoraChoice(body.model))
        return {**body.generation, "loras": tuple(choices)}

    def _check_model_name(self, body: GenerationBody) -> None:
        if body.model in (None, self.model) and not body.loras:  # almost always: nothing to look up at the replicas
            return
        library = self.orchestrator.loras
        if body.model not in (None, self.model, *library.names):
            raise no_such_model(body.model, [self.model, *self.adapters])
        if body.model not in (None, self.model) and (reason := library.why_unusable(body.model)) is not None:
            raise RequestError("unavailable", f"model: {reason}", "model")
        for lora in body.loras or ():
            if (reason := library.why_unusable(lora.name)) is not None:
                if lora.name in library.names:
                    raise RequestError("unavailable", f"loras: {reason}", "loras")
                known = ", ".join(map(repr, self.adapters)) or "none"
                raise RequestError("invalid", f"loras: {reason}; this server has {known}", "loras")

    def _check_limits(self, body: GenerationBody, inputs: RouteInputs) -> None:
        limits = self.limits
        width, height = body.width_and_height
        for name, value, most, unit in (
            ("n", inputs.count, limits.count, ""),
            (body.name_of("steps"), body.steps or 0, limits.steps, ""),
            ("size", (width or 0) * (height or 0), limits.pixels, " pixels"),
            ("seconds", inputs.seconds or 0, limits.audio_seconds, ""),
            ("prompt", len(inputs.prompt), limits.prompt, " characters"),
            ("messages", inputs.conversation, limits.conversation, " characters"),
            ("negative_prompt", len(body.negative_prompt or ""), limits.prompt, " characters"),
        ):
            if value > most:
                message = f"{name}: {value}{unit} are more than the {most} allowed here"
                raise RequestError("invalid", message, name, code=CONTEXT_LENGTH_EXCEEDED if name in PROMPTS else None)


def no_such_model(name: str | None, known: Sequence[str]) -> ApiError:
    """The error for the name of a model or adapter that is not served."""
    message = f"there is no model {name!r}; this server has {', '.join(map(repr, known))}"
    return ApiError(404, message, "model", "model_not_found")


def _check_card(body: GenerationBody, inputs: RouteInputs, card: ModelCard) -> None:
    """Raises RequestError if the model with this card cannot do what is requested."""
    name = card.pipeline
    check_product(inputs.product, card.product, name)
    _check_input_images(inputs, card)
    width, height = body.width_and_height
    if width and height and not (card.sized or card.image != "none"):
        raise RequestError("invalid", f"{name} has a fixed size: leave size out", "size")
    for side, length in (("width", width), ("height", height)):
        if length and length % card.size_multiple:
            raise RequestError(
                "invalid", f"size {body.size!r}: the {side} must be a multiple of {card.size_multiple}", "size"
            )
    if body.negative_prompt and not card.negative_prompt:
        raise RequestError("invalid", f"{name} takes no negative prompt", "negative_prompt")
    if body.guidance not in (None, *NO_GUIDANCE) and not card.guidance:
        raise RequestError("invalid", f"{name} takes no guidance", body.name_of("guidance"))
    if body.cache is not None and body.cache.mode != "none" and card.mode != "step":
        raise RequestError("invalid", f"cache: {name} runs whole requests here: leave cache out", "cache")


def _check_input_images(inputs: RouteInputs, card: ModelCard) -> None:
    """Raises RequestError if the model cannot take such images, a mask or a strength, or needs others."""
    name, image_field, count = card.pipeline, inputs.image_field, inputs.image_count
    if count and card.image == "none":
        raise RequestError("invalid", f"{name} takes no image to start from, only a prompt", image_field)
    if count > 1 and card.image != "several":
        raise RequestError("invalid", f"{name} takes one image, not {count}", image_field)
    if card.needs_image and not count:
        raise RequestError("invalid", f"{name} starts from an image: {inputs.image_hint}", image_field)
    if inputs.has_mask and not card.mask:
        raise RequestError("invalid", f"{name} takes no mask: it repaints the whole image", "mask")
    if inputs.strength is not None and not card.strength:
        raise RequestError("invalid", f"{name} takes no strength", "strength")
