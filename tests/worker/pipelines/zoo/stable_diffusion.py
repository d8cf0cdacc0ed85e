"""Stable Diffusion and what was made of it by other inputs, another schedule or another way to guide."""

from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from .text import (
    clip_image_processor,
    clip_text,
    clip_tokenizer,
    clip_vision,
    image,
    mask_image,
)
from .unet_parts import SIZE, ddim, euler, louder, sd, specimen

CROSS_FIRST = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def _image(i: int) -> dict[str, Any]:
    return {"image": image(i, SIZE)}


def _strong(i: int) -> dict[str, Any]:
    return _image(i) | {"strength": 0.8}


def _inpaint(i: int) -> dict[str, Any]:
    return _strong(i) | {"mask_image": mask_image(SIZE)}


def _with_unet(**unet: Any) -> Any:
    return lambda pipeline_class: sd(pipeline_class, unet)


def _with(scheduler: type, **settings: Any) -> Any:
    return lambda pipeline_class: sd(pipeline_class, scheduler=scheduler.from_config(ddim().config, **settings))


def _checked(pipeline_class: type) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = CLIPConfig(vision_config=sizes | {"image_size": 30, "patch_size": 15}, projection_dim=32)
    checker = {"safety_checker": StableDiffusionSafetyChecker(config), "feature_extractor": clip_image_processor()}
    return sd(pipeline_class, **checker, requires_safety_checker=True)


def _depth(pipeline_class: type) -> Any:
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=4, intermediate_size=24, image_size=SIZE, patch_size=4,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    estimator = louder(DPTForDepthEstimation(config), 3.0)  # depths far apart, as they are scaled to fill a range
    torch.nn.init.ones_(estimator.head.head[-2].bias)  # else all depths are less than nothing, and cut off
    processor = DPTImageProcessor(size={"height": SIZE, "width": SIZE})
    return sd(pipeline_class, {"in_channels": 5}, depth_estimator=estimator, feature_extractor=processor)


def _upscale(pipeline_class: type) -> Any:
    return sd(pipeline_class, {"in_channels": 7, "num_class_embeds": 1000}, low_res_scheduler=d.DDPMScheduler())


def _latent_upscale(pipeline_class: type) -> Any:
    unet = {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + 32}
    return sd(pipeline_class, unet, scheduler=euler(prediction_type="sample"))


def _variation(pipeline_class: type) -> Any:
    return sd(pipeline_class, image_encoder=clip_vision(), feature_extractor=clip_image_processor())


def _lcm(pipeline_class: type) -> Any:
    scheduler = d.LCMScheduler.from_config(ddim().config)
    return sd(pipeline_class, {"time_cond_proj_dim": 16}, scheduler=scheduler)


def _adapter(pipeline_class: type) -> Any:
    adapter = d.T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=2)
    return sd(pipeline_class, CROSS_FIRST, adapter=adapter)


def _unclip(pipeline_class: type) -> Any:
    unet = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 64}
    prior = {
        "prior_tokenizer": clip_tokenizer(), "prior_text_encoder": clip_text(32, projection=True),
        "prior": d.PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1, num_embeddings=77
        ),
        "prior_scheduler": d.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
    } if pipeline_class is d.StableUnCLIPPipeline else {
        "image_encoder": clip_vision(), "feature_extractor": clip_image_processor(),
    }  # fmt: skip
    return sd(
        pipeline_class, unet, image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=32),
        image_noising_scheduler=d.DDPMScheduler(beta_schedule="squaredcos_cap_v2"), **prior,
    )  # fmt: skip


def _family(task: str, pipeline_class: type, build: Any = sd, inputs: Any = lambda i: {}, suffix: str = "") -> Any:
    return specimen("Stable Diffusion", task, pipeline_class, build, inputs, suffix)


SPECIMENS = [
    _family("text-to-image", d.StableDiffusionPipeline),
    _family("text-to-image", d.StableDiffusionPipeline, _with(d.PNDMScheduler, skip_prk_steps=True), suffix=", PNDM"),
    _family("text-to-image", d.StableDiffusionPipeline, _with(d.EulerAncestralDiscreteScheduler), suffix=", ancestral"),
    _family("text-to-image", d.StableDiffusionPipeline, _checked, suffix=", checked"),
    _family("image-to-image", d.StableDiffusionImg2ImgPipeline, inputs=_strong),
    _family("inpainting", d.StableDiffusionInpaintPipeline, _with_unet(in_channels=9), _inpaint),
    _family("inpainting", d.StableDiffusionInpaintPipeline, sd, _inpaint, ", four channels"),
    _family("image editing", d.StableDiffusionInstructPix2PixPipeline, _with_unet(in_channels=8), _image),
    _family("image-to-image", d.StableDiffusionDepth2ImgPipeline, _depth, _strong),
    _family("super-resolution", d.StableDiffusionUpscalePipeline, _upscale, _image),
    _family("super-resolution", d.StableDiffusionLatentUpscalePipeline, _latent_upscale, _image),
    _family("image-to-image", d.StableDiffusionImageVariationPipeline, _variation, _image),
    _family("text-to-image", d.LatentConsistencyModelPipeline, _lcm),
    _family("image-to-image", d.LatentConsistencyModelImg2ImgPipeline, _lcm, _strong),
    _family("ControlNet", d.StableDiffusionAdapterPipeline, _adapter, _image),
    _family("text-to-image", d.StableUnCLIPPipeline, _unclip, lambda i: {"prior_num_inference_steps": 2 + i % 2}),
    _family("image-to-image", d.StableUnCLIPImg2ImgPipeline, _unclip, _image),
]
