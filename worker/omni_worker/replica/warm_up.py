"""The requests that a replica runs before it accepts any.

They load the parts that are built lazily, and prove that the most common calls can be batched.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from omni_settings.load import WarmUp
from omni_worker.model_card import ModelCard
from omni_worker.replica.server import ReplicaServer
from omni_worker.requests import GenerationParams, SamplingParams

log = logging.getLogger(__name__)
PROMPT = "warm-up"
IMAGE_SIDE = 512  # pixels of the input image, if the model names no size
BATCH_SIZES = (2, 4, 8)
MAX_SECONDS = 20.0  # after which no larger batch is tried
SOUND_SECONDS = 1.0
"""Of a sound, at most: some models make a minute of it by default."""


@dataclass(frozen=True)
class Batch:
    """Requests of one size, in pixels (None: the model's own), that run at one time."""

    count: int
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.count} at once" + ("" if self.size is None else f" at {self.size[0]}x{self.size[1]}")


def batches_of(settings: WarmUp | None, card: ModelCard, max_num_seqs: int) -> list[Batch]:
    """The batches to run: those of the settings, or a few of growing size. Those that are equal run once."""
    largest = 1 if card.mode == "request" else max_num_seqs
    counts = sorted({min(count, largest) for count in (BATCH_SIZES if settings is None else settings.batch_sizes)})
    sizes: list[tuple[int, int] | None] = [None]
    if settings is not None and settings.sizes and card.sized:
        sides = [text.split("x") for text in dict.fromkeys(settings.sizes)]
        sizes = [(int(width), int(height)) for width, height in sides]
    return [Batch(count, size) for size in sizes for count in counts]


async def warm_up(
    server: ReplicaServer,
    card: ModelCard,
    max_num_seqs: int,
    settings: WarmUp | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Run the batches of `settings`, all of them, or else a few. A request that fails is logged, and the replica starts
    anyway.

    on_progress: called with the number of batches that are done, and of all

    Returns whether all requests succeeded.
    """
    began = time.monotonic()
    succeeded = True
    batches = batches_of(settings, card, max_num_seqs)
    for done, batch in enumerate(batches):
        log.info("warming up, %d of %d: %s", done + 1, len(batches), batch)
        on_progress(done, len(batches))
        params = [warm_up_params(card, seed, batch.size) for seed in range(batch.count)]
        finished = await asyncio.gather(*(server.run_locally(f"warm-up-{done}-{p.seed}", p) for p in params))
        for error in {str(event.error) for event in finished if event.error}:
            log.warning("the warm-up of %s failed: %s", card.pipeline, error)
            succeeded = False
        if settings is None and time.monotonic() - began > MAX_SECONDS:
            break  # larger batches are proven when they first occur
    log.info("warmed up in %.1f s", time.monotonic() - began)
    return succeeded


def warm_up_params(card: ModelCard, seed: int, size: tuple[int, int] | None = None) -> GenerationParams:
    """A request of two steps or tokens with every input that the model requires, of this width and height."""
    params = GenerationParams(prompt=PROMPT, steps=2, seed=seed, sampling=SamplingParams(max_tokens=2))
    if size is not None:
        params = msgspec.structs.replace(params, width=size[0], height=size[1])
    if (own_seconds := card.defaults.seconds or card.seconds) is not None:
        params = msgspec.structs.replace(params, seconds=min(own_seconds, SOUND_SECONDS))
    if not card.needs_image:
        return params
    width = params.width or card.defaults.width or card.width or IMAGE_SIDE
    height = params.height or card.defaults.height or card.height or IMAGE_SIDE
    return msgspec.structs.replace(
        params,
        images=[np.full((height, width, 3), 128, np.uint8)],
        mask=np.full((height, width), 255, np.uint8) if card.mask else None,
        strength=1.0 if card.strength else None,
    )
