"""Tiny random pipelines of several families, built from their own classes: same code paths, no weights to load."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)


def _kl(channels, latent, groups, **extra):
    return AutoencoderKL(
        block_out_channels=channels,
        layers_per_block=1,
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        latent_channels=latent,
        norm_num_groups=groups,
        **extra,
    )


def qwen_image():
    """Two calls a step where guidance is on; prompts of one length each."""
    pipe = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=None, tokenizer=None,
    )  # fmt: skip

    def embed(generator):
        mask = torch.ones(1, 7, dtype=torch.long)
        return {
            "prompt_embeds": torch.randn(1, 7, 16, generator=generator), "prompt_embeds_mask": mask,
            "negative_prompt_embeds": torch.randn(1, 7, 16, generator=generator), "negative_prompt_embeds_mask": mask,
        }  # fmt: skip

    return pipe, embed, "true_cfg_scale", 64


def sd3():
    """The batch doubled for guidance, in one call."""
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4,
            pos_embed_max_size=96,
        ),
        vae=_kl([32, 64], 4, 8, shift_factor=0.0, scaling_factor=1.0), scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip

    def embed(generator):
        def noise(*shape):
            return torch.randn(*shape, generator=generator)

        return {
            "prompt_embeds": noise(1, 7, 32), "negative_prompt_embeds": noise(1, 7, 32),
            "pooled_prompt_embeds": noise(1, 64), "negative_pooled_prompt_embeds": noise(1, 64),
        }  # fmt: skip

    return pipe, embed, "guidance_scale", 64


def flux():
    """Position tables without a batch dimension, shared by all requests of a size."""
    pipe = FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
            guidance_embeds=True,
        ),
        vae=_kl([4], 1, 1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip

    def embed(generator):
        return {
            "prompt_embeds": torch.randn(1, 7, 32, generator=generator),
            "pooled_prompt_embeds": torch.randn(1, 32, generator=generator),
        }

    return pipe, embed, "guidance_scale", 16


def sdxl(solver=None):
    """A UNet with nested keyword arguments."""
    pipe = StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(32, 64), layers_per_block=2, sample_size=32, in_channels=4, out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
            cross_attention_dim=64,
        ),
        vae=_kl([32, 64], 4, 32),
        scheduler=solver or EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip

    def embed(generator):
        def noise(*shape):
            return torch.randn(*shape, generator=generator)

        return {
            "prompt_embeds": noise(1, 7, 64), "negative_prompt_embeds": noise(1, 7, 64),
            "pooled_prompt_embeds": noise(1, 32), "negative_pooled_prompt_embeds": noise(1, 32),
        }  # fmt: skip

    return pipe, embed, "guidance_scale", 64


def sdxl_unipc():
    """A timestep scheduler that keeps a history between its steps."""
    return sdxl(UniPCMultistepScheduler())


FAMILIES = {family.__name__: family for family in (qwen_image, sd3, flux, sdxl, sdxl_unipc)}
