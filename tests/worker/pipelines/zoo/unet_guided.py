"""Stable Diffusion in loops of their own: guided by attention or gradients, in windows or parallel, inverted."""

from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.stable_diffusion.clip_image_project_model import CLIPImageProjection
from transformers import CLIPProcessor

from .text import (
    call,
    clip_image_processor,
    clip_text,
    clip_tokenizer,
    clip_vision,
    generator,
    image,
    kl_vae,
    mask_image,
    noise,
    prompt,
)
from .unet_parts import SIZE, ddim, louder, sd, sdxl, specimen


def _boxes(i: int) -> dict[str, Any]:
    return {
        "gligen_phrases": [prompt(i + 1)], "gligen_boxes": [[0.1, 0.1 * (i % 4), 0.6, 0.9]],
        "gligen_scheduled_sampling_beta": 0.5,
    }  # fmt: skip


def _gligen(pipeline_class: type) -> Any:
    if pipeline_class is d.StableDiffusionGLIGENPipeline:
        return _opened(sd(pipeline_class, {"attention_type": "gated"}))
    pipe = sd(
        pipeline_class, {"attention_type": "gated-text-image"}, text_encoder=clip_text(32), image_encoder=clip_vision(),
        processor=CLIPProcessor(clip_image_processor(), clip_tokenizer()), image_project=CLIPImageProjection(32),
    )  # fmt: skip
    return _opened(pipe)


def _opened(pipe: Any) -> Any:
    """With the gates open that start as shut."""
    louder(pipe.unet.position_net, 4.0)
    for name, parameter in pipe.unet.named_parameters():
        if name.endswith(("alpha_attn", "alpha_dense")):
            torch.nn.init.constant_(parameter, 2.0)
        elif ".fuser." in name and parameter.ndim > 1:
            parameter.data.mul_(2.0)
    return pipe


def _semantic(i: int) -> dict[str, Any]:
    return {"editing_prompt": [prompt(i + 3)], "edit_warmup_steps": 1, "edit_guidance_scale": 3.0}


def _ledits(build: Any) -> Any:
    """The image is inverted by a method of its own, before the calls, and kept on the pipeline."""

    def inverted(pipeline_class: type) -> Any:
        scheduler = d.DPMSolverMultistepScheduler.from_config(ddim().config, algorithm_type="sde-dpmsolver++")
        pipe = build(pipeline_class, scheduler=scheduler)
        with torch.no_grad():
            pipe.invert(image=image(0), num_inversion_steps=6, skip=0.2, generator=generator(0))
        return pipe

    return inverted


def _edit(i: int) -> dict[str, Any]:
    return {
        "editing_prompt": [prompt(i)],
        "edit_guidance_scale": 3.0 + i,
        "edit_threshold": 0.7,
        "use_intersect_mask": False,
    }


def _invertible(pipeline_class: type) -> Any:
    return sd(pipeline_class, inverse_scheduler=d.DDIMInverseScheduler.from_config(ddim().config))


def _zero(pipeline_class: type) -> Any:
    inverse = d.DDIMInverseScheduler.from_config(ddim().config)
    return sd(pipeline_class, inverse_scheduler=inverse, caption_generator=None, caption_processor=None)


def _parallel(pipeline_class: type) -> Any:
    return sd(pipeline_class, scheduler=d.DDIMParallelScheduler.from_config(ddim().config))


def _depth_too(pipeline_class: type) -> Any:
    return sd(pipeline_class, vae=kl_vae(in_channels=6, out_channels=6), image_encoder=None)


def _one_width(pipeline_class: type) -> Any:
    return sd(pipeline_class, {"attention_head_dim": 4})


def _cycle(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE), "source_prompt": prompt(i + 3), "strength": 0.8, "eta": 0.1}


def _diffedit(i: int) -> dict[str, Any]:
    mask = noise(i + 7, 1, SIZE // 2, SIZE // 2) > 0
    inverted = int(call(i)["num_inference_steps"] * 0.8)
    return {"mask_image": mask.float(), "image_latents": noise(i, 1, inverted, 4, SIZE // 2, SIZE // 2)}


def _family(task: str, pipeline_class: type, build: Any = sd, inputs: Any = lambda i: {}) -> Any:
    return specimen("Stable Diffusion", task, pipeline_class, build, inputs)


SPECIMENS = [
    _family("text-to-image", d.StableDiffusionPanoramaPipeline, inputs=lambda i: {"width": 4 * SIZE}),
    _family("text-to-image", d.StableDiffusionGLIGENPipeline, _gligen, _boxes),
    _family("text-to-image", d.StableDiffusionGLIGENTextImagePipeline, _gligen,
            lambda i: _boxes(i) | {"gligen_images": [image(i)], "gligen_normalize_constant": 8.0}),
    _family("text-to-image", d.StableDiffusionAttendAndExcitePipeline,
            inputs=lambda i: {"token_indices": [2, 7], "attn_res": (4, 4), "max_iter_to_alter": 2, "thresholds": {}}),
    _family("text-to-image", d.StableDiffusionSAGPipeline, _one_width, lambda i: {"sag_scale": 0.5 + 0.1 * i}),
    _family("text-to-image", d.StableDiffusionLDM3DPipeline, _depth_too),
    _family("image editing", d.StableDiffusionDiffEditPipeline, _invertible, _diffedit),
    _family("text-to-image", d.StableDiffusionParadigmsPipeline, _parallel, lambda i: {"parallel": 4}),
    _family("image editing", d.StableDiffusionPix2PixZeroPipeline, _zero,
            lambda i: {"source_embeds": noise(i, 2, 77, 32), "target_embeds": noise(i + 10, 2, 77, 32)}),
    _family("text-to-image", d.SemanticStableDiffusionPipeline, inputs=_semantic),
    _family("image editing", d.CycleDiffusionPipeline, inputs=_cycle),
    _family("text-to-image", d.StableDiffusionPipelineSafe),
    _family("text-to-image", d.StableDiffusionModelEditingPipeline),
    _family("inpainting", d.StableDiffusionInpaintPipelineLegacy,
            inputs=lambda i: {"image": image(i, SIZE), "mask_image": mask_image(SIZE), "strength": 0.8}),
    specimen("LEDITS++", "image editing", d.LEditsPPPipelineStableDiffusion, _ledits(sd), _edit),
    specimen("LEDITS++", "image editing", d.LEditsPPPipelineStableDiffusionXL, _ledits(sdxl), _edit),
]  # fmt: skip
