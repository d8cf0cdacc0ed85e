"""Perturbed-attention guidance, a third branch beside the two of guidance, on Stable Diffusion and its XL."""

from typing import Any

import diffusers as d

from .controlnet import sd_with_control, sdxl_with_control
from .text import image, mask_image
from .unet_parts import SIZE, sd, sdxl, specimen


def _text(i: int) -> dict[str, Any]:
    return {"pag_scale": 1.0 + 0.5 * i}


def _control(i: int) -> dict[str, Any]:
    return _text(i) | {"image": image(i, SIZE)}


def _image(i: int) -> dict[str, Any]:
    return _control(i) | {"strength": 0.8}


def _inpaint(i: int) -> dict[str, Any]:
    return _image(i) | {"mask_image": mask_image(SIZE)}


def _control_image(i: int) -> dict[str, Any]:
    return _image(i) | {"control_image": image(i + 10, SIZE)}


def _control_inpaint(i: int) -> dict[str, Any]:
    return _inpaint(i) | {"control_image": image(i + 10, SIZE)}


SPECIMENS = [
    specimen(f"PAG on {family}", task, pipeline_class, build, inputs)
    for family, task, pipeline_class, build, inputs in (
        ("Stable Diffusion", "text-to-image", d.StableDiffusionPAGPipeline, sd, _text),
        ("Stable Diffusion", "image-to-image", d.StableDiffusionPAGImg2ImgPipeline, sd, _image),
        ("Stable Diffusion", "inpainting", d.StableDiffusionPAGInpaintPipeline, sd, _inpaint),
        ("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetPAGPipeline, sd_with_control, _control),
        ("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetPAGInpaintPipeline, sd_with_control,
         _control_inpaint),
        ("Stable Diffusion XL", "text-to-image", d.StableDiffusionXLPAGPipeline, sdxl, _text),
        ("Stable Diffusion XL", "image-to-image", d.StableDiffusionXLPAGImg2ImgPipeline, sdxl, _image),
        ("Stable Diffusion XL", "inpainting", d.StableDiffusionXLPAGInpaintPipeline, sdxl, _inpaint),
        ("Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetPAGPipeline, sdxl_with_control, _control),
        ("Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetPAGImg2ImgPipeline, sdxl_with_control,
         _control_image),
    )
]  # fmt: skip
