"""The two trainings: first the autoencoder learns the pictures, then transformer and text encoder learn to paint them.

The painter learns a rectified flow (Liu et al., 2022): from x = (1 - s) * latents + s * noise, at noise level s, it
predicts noise - latents. Text goes through the pipeline's own `encode_prompt`, so what it learns from is what it gets
when serving. Matrices and convolutions inside the models learn by Muon, the rest by AdamW. The weights kept are a
running average over the steps (EMA).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from diffusers import QwenImagePipeline

from omni_worker.models.digits_recipe.captions import NULL_PROMPT, Request, random_request, wording
from omni_worker.models.digits_recipe.muon import Muon
from omni_worker.models.digits_recipe.pictures import Album

LossReporter = Callable[[int, float], None]
"""Called after each step with the number of steps done and the loss."""

NULL_SHARE = 0.1
LATENT_NOISE = 0.1
POOL = {32: 12288, 64: 4096}
PAINTER_BATCH = {32: 64, 64: 24}
PICTURES_PER_CAPTION = 2
OTHERS_RATE = 0.4
"""AdamW's learning rate, as a share of Muon's."""


@dataclass(frozen=True)
class Lesson:
    """A budget: so many steps, but never longer than `seconds`; the learning rate falls to its end either way."""

    steps: int
    seconds: float
    peak_rate: float
    warmup: int

    def progress(self, step: int, started: float) -> float:
        """How much of the budget is used, 0 to 1."""
        return min(1.0, max(step / self.steps, (time.monotonic() - started) / self.seconds))

    def rate(self, step: int, progress: float) -> float:
        """Linear warm-up, then half a cosine down to 1 %."""
        return (
            self.peak_rate
            * min(1.0, (step + 1) / self.warmup)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        )


@dataclass(frozen=True)
class Latents:
    """Normalised, packed latents (n, tokens, channels) of pictures of one size, and which of them show what."""

    size: int
    tokens: torch.Tensor
    showing: dict[Request, list[int]]

    @property
    def side(self) -> int:
        """Tokens along one edge."""
        return math.isqrt(self.tokens.shape[1])


class Average:
    """An exponential moving average of parameters, whose window grows at the start."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self._values = [parameter.detach().clone() for parameter in parameters]

    def update(self, step: int) -> None:
        """Add the parameters after `step` to the average."""
        decay = min(self._decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self._values, [parameter.detach() for parameter in self._parameters], 1 - decay)

    def apply(self) -> None:
        """Make the average the parameters' values."""
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.detach().copy_(value)


def teach_autoencoder(pipeline: QwenImagePipeline, albums: list[Album], lesson: Lesson, report: LossReporter) -> None:
    """Learn to rebuild pictures from latents that carry a little noise, so that painted latents decode well too."""
    vae = pipeline.vae.train()
    kernels = [parameter for parameter in vae.parameters() if is_kernel(parameter)]
    others = [parameter for parameter in vae.parameters() if not is_kernel(parameter)]
    parameters = [*kernels, *others]
    optimizers = optimizers_for(kernels, others, weight_decay=0.0)
    average = Average(parameters, 0.98)
    started = time.monotonic()
    step, progress = 0, 0.0
    while progress < 1:
        album = albums[0] if step % 4 else albums[-1]
        pictures = torch.from_numpy(album.draw(32 * 32 * 32 // album.size**2).pictures)[:, :, None]
        latents = vae.encode(pictures).latent_dist.mean
        spread = latents.detach().std((0, 2, 3, 4), keepdim=True)
        rebuilt = vae.decode(latents + LATENT_NOISE * spread * torch.randn_like(latents)).sample
        loss = F.mse_loss(rebuilt, pictures) + 0.3 * F.l1_loss(rebuilt, pictures) + 1e-4 * latents.square().mean()
        descend(optimizers, parameters, loss, lesson.rate(step, progress))
        average.update(step)
        step += 1
        progress = lesson.progress(step, started)
        report(step, loss.item())
    average.apply()
    vae.eval()


def latents_of(pipeline: QwenImagePipeline, albums: list[Album]) -> list[Latents]:
    """Encode a pool of pictures of each size; writes the latents' mean and spread into the autoencoder's config."""
    with torch.no_grad():
        return _latents_of(pipeline, albums)


def _latents_of(pipeline: QwenImagePipeline, albums: list[Album]) -> list[Latents]:
    vae = pipeline.vae
    raw: list[tuple[int, torch.Tensor, list[Request]]] = []
    for album in albums:
        batches = [album.draw(64) for _ in range(POOL[album.size] // 64)]
        encoded = [vae.encode(torch.from_numpy(batch.pictures)[:, :, None]).latent_dist.mean for batch in batches]
        raw.append((album.size, torch.cat(encoded), [request for batch in batches for request in batch.requests]))
    flat = torch.cat([latents.transpose(0, 1).flatten(1) for _, latents, _ in raw], dim=1)
    mean, spread = flat.mean(1), flat.std(1)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=spread.tolist())
    pools = []
    for size, latents, requests in raw:
        normal = (latents - mean[None, :, None, None, None]) / spread[None, :, None, None, None]
        count, channels, _, height, width = normal.shape
        showing: dict[Request, list[int]] = {}
        for index, request in enumerate(requests):
            showing.setdefault(request, []).append(index)
        pools.append(Latents(size, pipeline._pack_latents(normal, count, channels, height, width), showing))
    return pools


def teach_painter(
    pipeline: QwenImagePipeline, pools: list[Latents], lesson: Lesson, seed: int, report: LossReporter
) -> None:
    """Learn to paint what a caption says: three batches of small pictures to one of large ones."""
    transformer = pipeline.transformer.train()
    language_model = pipeline.text_encoder.model.language_model.train()
    matrices, others = split_parameters(transformer, language_model)
    parameters = [*matrices, *others]
    optimizers = optimizers_for(matrices, others, weight_decay=0.01)
    average = Average(parameters, 0.998)
    random = Random(seed)
    started = time.monotonic()
    step, progress = 0, 0.0
    while progress < 1:
        pool = pools[0] if step % 4 else pools[-1]
        requested = [random_request(random) for _ in range(PAINTER_BATCH[pool.size] // PICTURES_PER_CAPTION)]
        clean = pool.tokens[
            [random.choice(pool.showing[item]) for item in requested for _ in range(PICTURES_PER_CAPTION)]
        ]
        captions = [NULL_PROMPT if random.random() < NULL_SHARE else wording(item, random) for item in requested]
        embeddings, mask = pipeline.encode_prompt(captions)
        embeddings = embeddings.repeat_interleave(PICTURES_PER_CAPTION, 0)
        mask = None if mask is None else mask.repeat_interleave(PICTURES_PER_CAPTION, 0)
        noise = torch.randn_like(clean)
        level = noise_levels(len(clean))
        noisy = torch.lerp(clean, noise, level[:, None, None])
        flow = transformer(
            hidden_states=noisy,
            encoder_hidden_states=embeddings,
            encoder_hidden_states_mask=mask,
            timestep=level,
            img_shapes=[[(1, pool.side, pool.side)]] * len(clean),
            return_dict=False,
        )[0]
        loss = F.mse_loss(flow, noise - clean)
        descend(optimizers, parameters, loss, lesson.rate(step, progress))
        average.update(step)
        step += 1
        progress = lesson.progress(step, started)
        report(step, loss.item())
    average.apply()
    transformer.eval()
    pipeline.text_encoder.eval()


def split_parameters(*models: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """(matrices inside the blocks, without the modulations; all other parameters)."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for model in models:
        for name, parameter in model.named_parameters():
            inside = name.startswith(("transformer_blocks.", "layers.")) and "_mod." not in name
            (matrices if inside and parameter.ndim == 2 else others).append(parameter)
    return matrices, others


def noise_levels(count: int) -> torch.Tensor:
    """Noise levels (count,) in (0, 1): mostly logit-normal, where few steps land; a quarter uniform, for the ends."""
    levels = torch.sigmoid(0.4 + 1.2 * torch.randn(count))
    return torch.where(torch.rand(count) < 0.25, torch.rand(count), levels)


def is_kernel(parameter: torch.nn.Parameter) -> bool:
    """Whether this is a convolution's kernel, and not one with next to no inputs or outputs."""
    return bool(parameter.ndim >= 4 and min(parameter.flatten(1).shape) >= 8)


def optimizers_for(
    inner: list[torch.nn.Parameter], others: list[torch.nn.Parameter], weight_decay: float
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for `inner`, AdamW for `others`; `descend` sets their learning rates."""
    return Muon(inner, 0.0, weight_decay), torch.optim.AdamW(others, 0.0, (0.9, 0.98), weight_decay=weight_decay)


def descend(
    optimizers: tuple[Muon, torch.optim.AdamW],
    parameters: list[torch.nn.Parameter],
    loss: torch.Tensor,
    rate: float,
) -> None:
    """One optimizer step, with the norm of the gradient clipped to 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer, share in zip(optimizers, (1.0, OTHERS_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        optimizer.step()
        optimizer.zero_grad()
