"""What every family of routes is given: the pipeline that is served, and what may be asked of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import Generation
from omni_worker.config.api import Limits
from omni_worker.errors import RequestError
from omni_worker.model_card import ModelCard
from omni_worker.orchestrator.handover import outputs_of
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import GenerationParams


@dataclass(frozen=True)
class Asked:
    """What a request asks for beside what all may say.

    prompt: what its length is bounded of
    where: how a picture to start from is sent by this route
    """

    prompt: str
    count: int = 1
    images: Sequence[np.ndarray] = ()
    mask: np.ndarray | None = None
    strength: float | None = None
    video: bool = False
    where: str = "POST /v1/images/edits takes one"
    image_field: str = "image"


@dataclass(frozen=True)
class Service:
    """`model` is served by its name; `limits` bound what a request may ask for."""

    orchestrator: Orchestrator
    model: str
    limits: Limits = field(default_factory=Limits)

    @property
    def outputs(self) -> frozenset[str]:
        """What the pipeline answers with."""
        return outputs_of([pool.stage for pool in self.orchestrator.pools])

    @property
    def cards(self) -> Iterator[ModelCard]:
        """Of each stage that draws, as far as one of its replicas is up to say so."""
        for pool in self.orchestrator.pools:
            if pool.stage.engine == "diffusion":
                yield from (member.replica.card for member in pool.up[:1])

    @property
    def card(self) -> ModelCard | None:
        """Of the last stage that draws, where it is known."""
        return next(reversed(list(self.cards)), None)

    @property
    def takes_mask(self) -> bool:
        """Whether a picture's own transparency counts."""
        return self.card is not None and self.card.mask

    def scaled_to(self, body: Generation) -> tuple[int, int] | None:
        """The size that pictures to start from are to have, where the pipeline itself cannot be told of one."""
        width, height = body.width_and_height
        return (width, height) if width and height and self.card and not self.card.sized else None

    def check(self, body: Generation, asked: Asked) -> None:
        """Refuse at once what a stage would refuse later. Raises ApiError or RequestError, naming the field."""
        self._check_name(body)
        self._check_limits(body, asked)
        for card in self.cards:
            _check_card(body, asked, card)

    def check_text(self, body: Generation, asked: Asked) -> None:
        """Of a request for text: the stages that draw have no say in it. Raises ApiError or RequestError."""
        self._check_name(body)
        self._check_limits(body, asked)

    def check_again(self, params: GenerationParams) -> None:
        """Of a job that was taken before the pipeline was known. Raises RequestError."""
        for card in self.cards:
            if not card.video:
                raise RequestError("invalid", f"{card.pipeline} makes no videos")
            if card.needs_image and not params.images:
                raise RequestError("invalid", f"{card.pipeline} starts from a picture", "input_reference")

    def _check_name(self, body: Generation) -> None:
        if body.model not in (None, self.model):
            message = f"there is no model {body.model!r}; this server has {self.model!r}"
            raise ApiError(404, message, "model", "model_not_found")

    def _check_limits(self, body: Generation, asked: Asked) -> None:
        limits = self.limits
        width, height = body.width_and_height
        for name, value, most, what in (
            ("n", asked.count, limits.count, ""),
            ("num_inference_steps", body.steps or 0, limits.steps, ""),
            ("size", (width or 0) * (height or 0), limits.pixels, " pixels"),
            ("prompt", len(asked.prompt), limits.prompt, " characters"),
            ("negative_prompt", len(body.negative_prompt or ""), limits.prompt, " characters"),
        ):
            if value > most:
                raise RequestError("invalid", f"{name}: {value}{what} are more than the {most} allowed here", name)


def _check_card(body: Generation, asked: Asked, card: ModelCard) -> None:
    name = card.pipeline
    if card.video and not asked.video:
        raise RequestError("invalid", f"{name} makes videos: POST /v1/videos takes the request", "model")
    if asked.video and not card.video:
        raise RequestError("invalid", f"{name} makes no videos: POST /v1/images/generations makes a picture", "model")
    _check_pictures(asked, card)
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


def _check_pictures(asked: Asked, card: ModelCard) -> None:
    name, field_ = card.pipeline, asked.image_field
    if asked.images and card.image == "none":
        raise RequestError("invalid", f"{name} takes no picture to start from, only a prompt", field_)
    if len(asked.images) > 1 and card.image != "several":
        raise RequestError("invalid", f"{name} takes one picture, not {len(asked.images)}", field_)
    if card.needs_image and not asked.images:
        raise RequestError("invalid", f"{name} starts from a picture: {asked.where}", field_)
    if asked.mask is not None and not card.mask:
        raise RequestError("invalid", f"{name} takes no mask: it paints the whole picture anew", "mask")
    if card.mask and asked.mask is None and asked.images:
        raise RequestError(
            "invalid", f"{name} paints where the picture is transparent: send a mask, or a picture that is so", "mask"
        )
    if asked.strength is not None and not card.strength:
        raise RequestError("invalid", f"{name} takes no strength", "strength")
