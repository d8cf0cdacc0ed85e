"""Learns the prompt embeddings that the painter needs, in as few rows as the thinker gives it.

The pipeline's own embeddings of a caption are 11 rows: its six tokens and five that close the template. A thinker gives
one row a token of its answer, the end included: seven. From the first seven of the eleven the painter paints 93 % of
the digits right, because it reads the closing ones too. So each digit, colour and background gets a correction to these
seven, learned through the frozen painter until it paints from seven rows what it paints from eleven.
"""

from random import Random

import torch
import torch.nn.functional as F
from diffusers import QwenImagePipeline

from omni_worker.models.digits_recipe.captions import BACKGROUNDS, COLOURS, NULL_PROMPT, Request
from omni_worker.models.digits_recipe.saving import GUIDANCE, STEPS
from omni_worker.models.digits_recipe.teaching import LossReporter, noise_levels

ROWS = 7
"""The tokens of a caption, and the end."""
REQUESTS = tuple(
    Request(digit, colour, background) for digit in range(10) for colour in COLOURS for background in BACKGROUNDS
)
INDEX = {request: index for index, request in enumerate(REQUESTS)}
COLOUR_INDEX = {colour: index for index, colour in enumerate(COLOURS)}
BACKGROUND_INDEX = {background: index for index, background in enumerate(BACKGROUNDS)}
PICTURES = {32: 1920, 64: 320}
BATCH = {32: 64, 64: 24}
ROW_NOISE = 0.3
"""The thinker will not hit its targets exactly, so the painter must understand rows that are this far off."""


def desired_rows(pipeline: QwenImagePipeline, steps: int, seed: int, report: LossReporter) -> torch.Tensor:
    """Rows (160, 7, width), in the order of `REQUESTS`, from which the painter paints as from its own embeddings."""
    transformer = pipeline.transformer.requires_grad_(False)
    with torch.no_grad():
        full, _ = pipeline.encode_prompt([request.caption for request in REQUESTS])
    full = full.clone()
    scale = pipeline.text_encoder.model.language_model.norm.weight.detach()
    pools = {size: _painted(pipeline, size, count, seed) for size, count in PICTURES.items()}
    width = full.shape[-1]
    corrections = [
        torch.zeros(count, ROWS, width, requires_grad=True) for count in (10, len(COLOURS), len(BACKGROUNDS))
    ]
    optimizer = torch.optim.Adam(corrections, 0.03, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=steps)
    random = Random(seed)
    for step in range(steps):
        size = 32 if step % 3 else 64
        clean = pools[size]
        chosen = torch.tensor([random.randrange(len(clean)) for _ in range(BATCH[size])])
        requested = chosen % len(REQUESTS)
        rows = _corrected(full[:, :ROWS], corrections, scale)[requested]
        rows = rows + ROW_NOISE * random.random() * scale * torch.randn_like(rows)
        noise = torch.randn_like(clean[chosen])
        level = noise_levels(len(chosen))
        noisy = torch.lerp(clean[chosen], noise, level[:, None, None])
        side = size // 8
        inputs = {"hidden_states": noisy, "timestep": level, "img_shapes": [[(1, side, side)]] * len(chosen)}
        with torch.no_grad():
            target = transformer(**inputs, encoder_hidden_states=full[requested], return_dict=False)[0]
        flow = transformer(**inputs, encoder_hidden_states=rows, return_dict=False)[0]
        loss = F.mse_loss(flow, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        report(step + 1, loss.item())
    with torch.no_grad():
        return _corrected(full[:, :ROWS], corrections, scale)


def _painted(pipeline: QwenImagePipeline, size: int, count: int, seed: int) -> torch.Tensor:
    """The painter's own pictures, as packed latents (count, tokens, channels); picture i shows request i modulo 160."""
    parts = []
    for start in range(0, count, len(REQUESTS)):
        parts.append(
            pipeline(
                prompt=[request.caption for request in REQUESTS],
                negative_prompt=[NULL_PROMPT] * len(REQUESTS),
                true_cfg_scale=GUIDANCE,
                num_inference_steps=STEPS,
                height=size,
                width=size,
                generator=torch.Generator().manual_seed(10_000 + seed + start),
                output_type="latent",
            ).images
        )
    return torch.cat(parts)


def _corrected(rows: torch.Tensor, corrections: list[torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
    """Rows plus corrections, made what a final RMS norm with the weight `scale` can put out."""
    digits, colours, backgrounds = corrections
    change = (
        digits[[request.digit for request in REQUESTS]]
        + colours[[COLOUR_INDEX[request.colour] for request in REQUESTS]]
        + backgrounds[[BACKGROUND_INDEX[request.background] for request in REQUESTS]]
    )
    return F.rms_norm(rows / scale + change, (rows.shape[-1],)) * scale
