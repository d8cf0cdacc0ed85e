"""ControlNet, ControlNet-XS and ControlNet Union, on Stable Diffusion and Stable Diffusion XL."""

from collections.abc import Callable
from typing import Any

import diffusers as d

from .text import image, mask_image
from .unet_parts import (
    SIZE,
    sd,
    sd_controlnet,
    sd_unet,
    sdxl,
    sdxl_controlnet,
    sdxl_controlnet_union,
    sdxl_unet,
    specimen,
)


def sd_with_control(pipeline_class: type) -> Any:
    return sd(pipeline_class, controlnet=sd_controlnet())


def _several(pipeline_class: type) -> Any:
    return sd(pipeline_class, controlnet=d.MultiControlNetModel([sd_controlnet(), sd_controlnet()]))


def sdxl_with_control(pipeline_class: type) -> Any:
    return sdxl(pipeline_class, controlnet=sdxl_controlnet())


def _union(pipeline_class: type) -> Any:
    return sdxl(pipeline_class, controlnet=sdxl_controlnet_union())


def _xs(pipeline: Callable[..., Any], unet: Callable[..., Any]) -> Callable[[type], Any]:
    def build(pipeline_class: type) -> Any:
        adapter = d.ControlNetXSAdapter.from_unet(
            unet(), size_ratio=0.5, conditioning_embedding_out_channels=(8, 16), num_attention_heads=2
        )
        return pipeline(pipeline_class, controlnet=adapter)

    return build


def _control(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE)}


def _controls(i: int) -> dict[str, Any]:
    return {"image": [image(i, SIZE), image(i + 10, SIZE)], "controlnet_conditioning_scale": [0.5, 0.8]}


def _image(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE), "control_image": image(i + 10, SIZE), "strength": 0.8}


def _inpaint(i: int) -> dict[str, Any]:
    return _image(i) | {"mask_image": mask_image(SIZE)}


MODE = {"control_mode": [1]}

SPECIMENS = [
    specimen("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetPipeline, sd_with_control, _control),
    specimen("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetPipeline, _several, _controls, " of two"),
    specimen("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetImg2ImgPipeline, sd_with_control, _image),
    specimen("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetInpaintPipeline, sd_with_control, _inpaint),
    specimen("Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetPipeline, sdxl_with_control, _control),
    specimen("Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetImg2ImgPipeline, sdxl_with_control, _image),
    specimen("Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetInpaintPipeline, sdxl_with_control, _inpaint),
    specimen(
        "Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetUnionPipeline, _union,
        lambda i: MODE | {"control_image": [image(i, SIZE)]},
    ),
    specimen(
        "Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetUnionImg2ImgPipeline, _union,
        lambda i: MODE | _image(i) | {"control_image": [image(i, SIZE)]},
    ),
    specimen(
        "Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetUnionInpaintPipeline, _union,
        lambda i: MODE | _inpaint(i) | {"control_image": [image(i, SIZE)]},
    ),
    specimen("Stable Diffusion", "ControlNet", d.StableDiffusionControlNetXSPipeline, _xs(sd, sd_unet), _control),
    specimen("Stable Diffusion XL", "ControlNet", d.StableDiffusionXLControlNetXSPipeline, _xs(sdxl, sdxl_unet), _control),
]  # fmt: skip
