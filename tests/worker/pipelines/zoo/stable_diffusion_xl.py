"""Stable Diffusion XL."""

from typing import Any

import diffusers as d

from .text import clip_text, image, mask_image
from .unet_parts import SIZE, louder, sdxl, specimen


def _image(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE)}


def _inpaint(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE), "mask_image": mask_image(SIZE), "strength": 0.9}


def _adapter() -> d.T2IAdapter:
    return d.T2IAdapter(channels=[32, 64, 64], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl")


def _refiner(pipeline_class: type) -> Any:
    unet = {"projection_class_embeddings_input_dim": 5 * 8 + 32, "cross_attention_dim": 32}
    text = louder(clip_text(32, projection=True), 4.0)
    return sdxl(
        pipeline_class, unet, text_encoder_2=text, text_encoder=None, tokenizer=None, requires_aesthetics_score=True
    )


def _family(task, pipeline_class, build=sdxl, inputs=lambda i: {}, suffix=""):
    return specimen("Stable Diffusion XL", task, pipeline_class, build, inputs, suffix)


SPECIMENS = [
    _family("text-to-image", d.StableDiffusionXLPipeline),
    _family("image-to-image", d.StableDiffusionXLImg2ImgPipeline, inputs=lambda i: _image(i) | {"strength": 0.8}),
    _family(
        "image-to-image",
        d.StableDiffusionXLImg2ImgPipeline,
        _refiner,
        lambda i: _image(i) | {"strength": 0.8},
        ", refiner",
    ),
    _family(
        "text-to-image",
        d.StableDiffusionXLPipeline,
        lambda c: sdxl(c, scheduler=d.DPMSolverMultistepScheduler()),
        suffix=", DPM-Solver++",
    ),
    _family("inpainting", d.StableDiffusionXLInpaintPipeline, lambda c: sdxl(c, {"in_channels": 9}), _inpaint),
    _family("image editing", d.StableDiffusionXLInstructPix2PixPipeline, lambda c: sdxl(c, {"in_channels": 8}), _image),
    _family(
        "ControlNet",
        d.StableDiffusionXLAdapterPipeline,
        lambda c: sdxl(c, adapter=_adapter()),
        _image,
    ),
]
