"""The served pipeline as the routes see it: what it can do, and the checks that refuse a request at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import GenerationBody
from omni_worker.config.api import Limits
from omni_worker.errors import RequestError
from omni_worker.model_card import ModelCard
from omni_worker.orchestrator.handover import outputs_of
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import GenerationParams


@dataclass(frozen=True)
class RouteInputs:
    """What a route reads from a request in addition to the fields of GenerationBody.

    prompt: the text whose length is limited
    count: how many results the request asks for
    images, mask, strength: as in GenerationParams
    is_video: whether the route generates videos
    image_field: the field with the input images
    image_hint: how to send an image to this route, for error messages
    conversation: the characters of all messages, if they are answered with text
    """

    prompt: str
    count: int = 1
    images: Sequence[np.ndarray] = ()
    mask: np.ndarray | None = None
    strength: float | None = None
    is_video: bool = False
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

    def input_image_size(self, body: GenerationBody) -> tuple[int, int] | None:
        """Width and height to scale input images to, if the request has a size that the pipeline cannot take itself."""
        width, height = body.width_and_height
        return (width, height) if width and height and self.card and not self.card.sized else None

    def check(self, body: GenerationBody, inputs: RouteInputs) -> None:
        """Refuse at once what a stage would refuse later. Raises ApiError or RequestError, naming the field."""
        self._check_model_name(body)
        self._check_limits(body, inputs)
        for card in self.cards:
            _check_card(body, inputs, card)

    def check_text(self, body: GenerationBody, inputs: RouteInputs) -> None:
        """The same for a request that needs no diffusion stage. Raises ApiError or RequestError, naming the field."""
        self._check_model_name(body)
        self._check_limits(body, inputs)

    def check_video_job(self, params: GenerationParams) -> None:
        """Check a video job before it runs: it may have been accepted before the cards were known.

        Raises RequestError, naming the field.
        """
        for card in self.cards:
            if not card.video:
                raise RequestError("invalid", f"{card.pipeline} makes no videos")
            if card.needs_image and not params.images:
                raise RequestError("invalid", f"{card.pipeline} starts from a picture", "input_reference")

    def _check_model_name(self, body: GenerationBody) -> None:
        if body.model not in (None, self.model):
            message = f"there is no model {body.model!r}; this server has {self.model!r}"
            raise ApiError(404, message, "model", "model_not_found")

    def _check_limits(self, body: GenerationBody, inputs: RouteInputs) -> None:
        limits = self.limits
        width, height = body.width_and_height
        for name, value, most, unit in (
            ("n", inputs.count, limits.count, ""),
            ("num_inference_steps", body.steps or 0, limits.steps, ""),
            ("size", (width or 0) * (height or 0), limits.pixels, " pixels"),
            ("prompt", len(inputs.prompt), limits.prompt, " characters"),
            ("messages", inputs.conversation, limits.conversation, " characters"),
            ("negative_prompt", len(body.negative_prompt or ""), limits.prompt, " characters"),
        ):
            if value > most:
                raise RequestError("invalid", f"{name}: {value}{unit} are more than the {most} allowed here", name)


def _check_card(body: GenerationBody, inputs: RouteInputs, card: ModelCard) -> None:
    """Raises RequestError if the model with this card cannot do what is requested."""
    name = card.pipeline
    if card.video and not inputs.is_video:
        raise RequestError("invalid", f"{name} makes videos: POST /v1/videos takes the request", "model")
    if inputs.is_video and not card.video:
        raise RequestError("invalid", f"{name} makes no videos: POST /v1/images/generations makes a picture", "model")
    _check_input_images(inputs, card)
    width, height = body.width_and_height
    if width and height and not (card.sized or card.image != "none"):
        raise RequestError("invalid", f"{name} has a fixed size: leave size out", "size")
    for side, length in (("width", width), ("height", height)):
        if length and length % card.size_multiple:
            raise RequestError(
                "invalid", f"size {body.size!r}: the {side} must be a multiple of {card.size_multiple}", "size"
            )
    if body.negative_prompt is not None and not card.negative_prompt:
        raise RequestError("invalid", f"{name} takes no negative prompt", "negative_prompt")
    if body.guidance is not None and not card.guidance:
        raise RequestError("invalid", f"{name} takes no guidance", "guidance_scale")


def _check_input_images(inputs: RouteInputs, card: ModelCard) -> None:
    """Raises RequestError if the model cannot take these images, this mask or this strength, or needs others."""
    name, image_field = card.pipeline, inputs.image_field
    if inputs.images and card.image == "none":
        raise RequestError("invalid", f"{name} takes no picture to start from, only a prompt", image_field)
    if len(inputs.images) > 1 and card.image != "several":
        raise RequestError("invalid", f"{name} takes one picture, not {len(inputs.images)}", image_field)
    if card.needs_image and not inputs.images:
        raise RequestError("invalid", f"{name} starts from a picture: {inputs.image_hint}", image_field)
    if inputs.mask is not None and not card.mask:
        raise RequestError("invalid", f"{name} takes no mask: it paints the whole picture anew", "mask")
    if card.mask and inputs.mask is None and inputs.images:
        raise RequestError(
            "invalid", f"{name} paints where the picture is transparent: send a mask, or a picture that is so", "mask"
        )
    if inputs.strength is not None and not card.strength:
        raise RequestError("invalid", f"{name} takes no strength", "strength")
