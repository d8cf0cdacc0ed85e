"""Denoisers of pixels: DeepFloyd IF, and the unconditional and class-conditional classes."""

from typing import Any

import diffusers as d

from .text import assemble, image, kl_vae, mask_image, t5_encoder, t5_tokenizer
from .unet_parts import SIZE, accepted, sd_unet, specimen

LITTLE = {"sigma_max": 0.5}  # noise; with more of it, what the model says would leave the range of pixels


def _if(pipeline_class: type) -> Any:
    upscales = "SuperResolution" in pipeline_class.__name__
    unet = sd_unet(
        in_channels=6 if upscales else 3, out_channels=6, act_fn="gelu", resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), sample_size=SIZE, attention_head_dim=16,
        encoder_hid_dim=32, addition_embed_type="text", addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm", class_embed_type="timestep" if upscales else None,
    )  # fmt: skip
    scheduler = {"beta_schedule": "squaredcos_cap_v2", "thresholding": True, "variance_type": "learned_range"}
    shared = {
        "image_noising_scheduler": d.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "scheduler": d.DDPMScheduler(**scheduler), "text_encoder": t5_encoder(), "tokenizer": t5_tokenizer(),
        "unet": unet, "feature_extractor": None, "safety_checker": None, "watermarker": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    return assemble(pipeline_class, **accepted(pipeline_class.__init__, shared))


def _if_inputs(name: str) -> Any:
    def inputs(i: int) -> dict[str, Any]:
        more: dict[str, Any] = {"clean_caption": False}
        if "SuperResolution" in name:
            more |= {"image": image(i, SIZE // 2), "noise_level": 100}
        if "Img2Img" in name or "Inpainting" in name:
            more |= {"original_image" if "SuperResolution" in name else "image": image(i + 10, SIZE), "strength": 0.8}
        if "Inpainting" in name:
            more["mask_image"] = mask_image(SIZE)
        return more

    return inputs


def _unet(**changes: Any) -> d.UNet2DModel:
    config = {
        "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": SIZE,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return d.UNet2DModel(**(config | changes))


def _pixels(scheduler: type, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
    return lambda pipeline_class: assemble(
        pipeline_class, unet=_unet(**changes), scheduler=scheduler(**(settings or {}))
    )


def _repaint(i: int) -> dict[str, Any]:
    return {"image": image(i), "mask_image": mask_image(), "jump_length": 2, "jump_n_sample": 2}


def _ldm(pipeline_class: type) -> Any:
    vqvae = d.VQModel(
        block_out_channels=(32, 64), norm_num_groups=8, num_vq_embeddings=32, latent_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    upscales = pipeline_class is d.LDMSuperResolutionPipeline
    unet = _unet(in_channels=6 if upscales else 3, sample_size=SIZE // 2)
    return assemble(pipeline_class, vqvae=vqvae, unet=unet, scheduler=d.DDIMScheduler())


def _dit(pipeline_class: type) -> Any:
    transformer = d.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, attention_bias=True, num_embeds_ada_norm=1000,
    )  # fmt: skip
    names = {str(index): f"thing {index}" for index in range(10)}
    return assemble(pipeline_class, transformer=transformer, vae=kl_vae(), scheduler=d.DDIMScheduler(), id2label=names)


SPECIMENS = [
    specimen("DeepFloyd IF", task, pipeline_class, _if, _if_inputs(pipeline_class.__name__))
    for task, pipeline_class in (
        ("text-to-image", d.IFPipeline),
        ("image-to-image", d.IFImg2ImgPipeline),
        ("inpainting", d.IFInpaintingPipeline),
        ("super-resolution", d.IFSuperResolutionPipeline),
        ("super-resolution", d.IFImg2ImgSuperResolutionPipeline),
        ("super-resolution", d.IFInpaintingSuperResolutionPipeline),
    )
] + [
    specimen("unconditional", "unconditional", d.DDPMPipeline, _pixels(d.DDPMScheduler)),
    specimen("unconditional", "unconditional", d.DDIMPipeline, _pixels(d.DDIMScheduler)),
    specimen("unconditional", "unconditional", d.PNDMPipeline, _pixels(d.PNDMScheduler, {"beta_end": 0.001}),
             lambda i: {"num_inference_steps": (4, 6, 5, 8)[i % 4]}),
    specimen("unconditional", "unconditional", d.ScoreSdeVePipeline, _pixels(d.ScoreSdeVeScheduler, LITTLE)),
    specimen("unconditional", "unconditional", d.KarrasVePipeline, _pixels(d.KarrasVeScheduler, LITTLE)),
    specimen("unconditional", "inpainting", d.RePaintPipeline, _pixels(d.RePaintScheduler, sample_size=32), _repaint),
    specimen("unconditional", "unconditional", d.ConsistencyModelPipeline,
             _pixels(d.CMStochasticIterativeScheduler, num_class_embeds=10), lambda i: {"class_labels": i % 10}),
    specimen("latent diffusion", "unconditional", d.LDMPipeline, _ldm),
    specimen("latent diffusion", "super-resolution", d.LDMSuperResolutionPipeline, _ldm,
             lambda i: {"image": image(i, 32)}),
    specimen("DiT", "other", d.DiTPipeline, _dit, lambda i: {"class_labels": [i % 10]}),
]  # fmt: skip
