"""The requests that a replica runs before it accepts any.

They load the parts that are built lazily, and prove that the most common calls can be batched.
"""

import asyncio
import logging
import time

import msgspec
import numpy as np

from omni_worker.model_card import ModelCard
from omni_worker.replica.server import ReplicaServer
from omni_worker.requests import GenerationParams, SamplingParams

log = logging.getLogger(__name__)
PROMPT = "warm-up"
IMAGE_SIDE = 512  # pixels of the input image, if the model names no size
BATCH_SIZES = (2, 4, 8)
MAX_SECONDS = 20.0  # after which no larger batch is tried


async def warm_up(server: ReplicaServer, card: ModelCard, max_num_seqs: int) -> bool:
    """Run a few batches of growing size. A request that fails is logged, and the replica starts anyway.

    Returns whether all requests succeeded.
    """
    began = time.monotonic()
    succeeded = True
    largest = 1 if card.mode == "request" else max_num_seqs
    for count in sorted({min(size, largest) for size in BATCH_SIZES}):
        log.info("warming up: %d at once", count)
        params = [warm_up_params(card, seed) for seed in range(count)]
        finished = await asyncio.gather(*(server.run_locally(f"warm-up-{count}-{p.seed}", p) for p in params))
        for error in {str(event.error) for event in finished if event.error}:
            log.warning("the warm-up of %s failed: %s", card.pipeline, error)
            succeeded = False
        if time.monotonic() - began > MAX_SECONDS:
            break  # larger batches are proven when they first occur
    log.info("warmed up in %.1f s", time.monotonic() - began)
    return succeeded


def warm_up_params(card: ModelCard, seed: int) -> GenerationParams:
    """A request of two steps or tokens with every input that the model requires."""
    params = GenerationParams(prompt=PROMPT, steps=2, seed=seed, sampling=SamplingParams(max_tokens=2))
    if not card.needs_image:
        return params
    width = card.defaults.width or card.width or IMAGE_SIDE
    height = card.defaults.height or card.height or IMAGE_SIDE
    return msgspec.structs.replace(
        params,
        images=[np.full((height, width, 3), 128, np.uint8)],
        mask=np.full((height, width), 255, np.uint8) if card.mask else None,
        strength=1.0 if card.strength else None,
    )
