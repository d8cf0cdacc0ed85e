"""Z-Image, whose transformer takes lists: image to image, inpainting, ControlNets, Omni."""

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageControlNetModel, ZImageTransformer2DModel

from .dit_gain import assemble
from .qwen_image import longer
from .specimen import Specimen
from .text import call, image, kl_vae, mask_image, noise
from .text_llm import llm_tokenizer, qwen3

SIZE = 32


def _build(name: str, control: int | None = None, **parts: Any) -> Any:
    """`control` is how many channels a ControlNet's condition has; None for no ControlNet."""
    width = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    if control is not None:
        parts["controlnet"] = ZImageControlNetModel(
            control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=control,
            add_control_noise_refiner="control_noise_refiner", **width,
        )  # fmt: skip
    transformer = parts.pop("transformer", {})
    return assemble(
        getattr(diffusers, name),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.pop("vae", None) or kl_vae(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=qwen3().model,
        tokenizer=llm_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=4, n_layers=2, cap_feat_dim=32, axes_dims=[8, 4, 4], axes_lens=[256, 64, 64],
            **width, **transformer,
        ),
        **parts,
    )  # fmt: skip


def _call(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    drawn = {name: mask_image(SIZE) if "mask" in name else image(i + 10 * k, SIZE) for k, name in enumerate(inputs)}
    sizes = {"height": SIZE, "width": SIZE, "max_sequence_length": 24}
    return call(i, **({"negative_prompt": "bad quality"} | sizes | drawn | more))


def _strong(i: int, *inputs: str) -> dict[str, Any]:
    return _call(i, *inputs, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4])


def _embeddings(i: int) -> dict[str, Any]:
    """Lists of embeddings of lengths that fill another count of blocks of 32 for every second i."""
    positive, negative = [noise(i, 30 + i % 4 * 8, 32)], [noise(i + 50, 5, 32)]
    return _call(i, prompt=None, negative_prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative)


def _specimen(name: str, task: str, arguments: Any, suffix: str = "", **build: Any) -> Specimen:
    name = f"ZImage{name}Pipeline"
    return Specimen(name + suffix, "Z-Image", task, lambda: _build(name, **build), arguments)


OMNI = {"transformer": {"siglip_feat_dim": 32}, "siglip": None, "siglip_processor": None}
SPECIMENS = [
    _specimen("", "text-to-image", _call),
    _specimen("", "text-to-image", lambda i: _call(i, prompt=longer(i)), "-lengths"),
    _specimen("", "text-to-image", _embeddings, "-blocks"),
    _specimen("Omni", "text-to-image", _call, **OMNI),
    _specimen("Img2Img", "image-to-image", lambda i: _strong(i, "image")),
    _specimen("Inpaint", "inpainting", lambda i: _strong(i, "image", "mask_image")),
    _specimen("ControlNet", "ControlNet", lambda i: _call(i, "control_image"), control=4),
    _specimen("ControlNetInpaint", "ControlNet", lambda i: _call(i, "image", "mask_image", "control_image"), control=9),
]
