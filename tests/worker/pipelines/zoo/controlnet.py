"""ControlNet, ControlNet-XS and ControlNet Union, on Stable Diffusion and Stable Diffusion XL."""

from collections.abc import Callable
from typing import Any

import diffusers as d

from .text import image, mask_image
from .unet_parts import (
    SIZE,
    louder,
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
    two = {"layers_per_block": 2}  # the adapter knows no other number

    def build(pipeline_class: type) -> Any:
        adapter = d.ControlNetXSAdapter.from_unet(
            unet(**two), size_ratio=0.5, conditioning_embedding_out_channels=(8, 16), num_attention_heads=2
        )
        return pipeline(pipeline_class, two, controlnet=louder(adapter, 4.0))

    return build


def _control(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE)}


def _controls(i: int) -> dict[str, Any]:
    return {"image": [image(i, SIZE), image(i + 10, SIZE)], "controlnet_conditioning_scale": [0.5, 0.8]}


def _image(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE), "control_image": image(i + 10, SIZE), "strength": 0.8}


def _inpaint(i: int) -> dict[str, Any]:
    return _image(i) | {"mask_image": mask_image(SIZE)}


def _one(inputs: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
    """The second kind of control of a union."""
    return lambda i: inputs(i) | {"control_mode": [1], "control_image": [image(i + 10, SIZE)]}


SPECIMENS = [
    specimen(f"Stable Diffusion{family}", "ControlNet", pipeline_class, build, inputs, *suffix)
    for family, pipeline_class, build, inputs, *suffix in (
        ("", d.StableDiffusionControlNetPipeline, sd_with_control, _control),
        ("", d.StableDiffusionControlNetPipeline, _several, _controls, " of two"),
        ("", d.StableDiffusionControlNetImg2ImgPipeline, sd_with_control, _image),
        ("", d.StableDiffusionControlNetInpaintPipeline, sd_with_control, _inpaint),
        ("", d.StableDiffusionControlNetXSPipeline, _xs(sd, sd_unet), _control),
        (" XL", d.StableDiffusionXLControlNetPipeline, sdxl_with_control, _control),
        (" XL", d.StableDiffusionXLControlNetImg2ImgPipeline, sdxl_with_control, _image),
        (" XL", d.StableDiffusionXLControlNetInpaintPipeline, sdxl_with_control, _inpaint),
        (" XL", d.StableDiffusionXLControlNetXSPipeline, _xs(sdxl, sdxl_unet), _control),
        (" XL", d.StableDiffusionXLControlNetUnionPipeline, _union, _one(lambda i: {})),
        (" XL", d.StableDiffusionXLControlNetUnionImg2ImgPipeline, _union, _one(_image)),
        (" XL", d.StableDiffusionXLControlNetUnionInpaintPipeline, _union, _one(_inpaint)),
    )
]
