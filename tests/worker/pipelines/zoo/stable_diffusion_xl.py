"""Stable Diffusion XL."""

from typing import Any

import diffusers as d

from .text import image, mask_image
from .unet_parts import SIZE, sdxl, specimen


def _image(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE)}


def _inpaint(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE), "mask_image": mask_image(SIZE), "strength": 0.9}


def _adapter() -> d.T2IAdapter:
    return d.T2IAdapter(channels=[32, 64, 64], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl")


def _family(task, pipeline_class, build=sdxl, inputs=lambda i: {}, suffix=""):
    return specimen("Stable Diffusion XL", task, pipeline_class, build, inputs, suffix)


SPECIMENS = [
    _family("text-to-image", d.StableDiffusionXLPipeline),
    _family("image-to-image", d.StableDiffusionXLImg2ImgPipeline, inputs=lambda i: _image(i) | {"strength": 0.8}),
    _family("inpainting", d.StableDiffusionXLInpaintPipeline, lambda c: sdxl(c, {"in_channels": 9}), _inpaint),
    _family("image editing", d.StableDiffusionXLInstructPix2PixPipeline, lambda c: sdxl(c, {"in_channels": 8}), _image),
    _family(
        "ControlNet",
        d.StableDiffusionXLAdapterPipeline,
        lambda c: sdxl(c, adapter=_adapter()),
        _image,
    ),
]
