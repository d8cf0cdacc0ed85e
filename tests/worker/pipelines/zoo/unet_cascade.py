"""Würstchen, Stable Cascade and aMUSEd: denoisers of very small latents, and of tokens."""

from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior

from .text import assemble, clip_image_processor, clip_text, clip_tokenizer, clip_vision, image, mask_image, noise
from .unet_parts import SIZE, specimen

SIDE = 128  # pixels; the prior's latent has 3 a side


def _text(projection: bool) -> dict[str, Any]:
    return {"text_encoder": clip_text(32, projection=projection), "tokenizer": clip_tokenizer()}


def _vqgan() -> PaellaVQModel:
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=16, levels=2, embed_dim=32)
    torch.nn.init.constant_(vqgan.out_block[0].bias, 0.5)  # the middle of the range of pixels
    return vqgan


def _wuerstchen(pipeline_class: type) -> Any:
    model = WuerstchenPrior(c_in=4, c=32, depth=2, c_cond=32, c_r=32, nhead=2)
    model.out[1].weight.data.mul_(0.2)  # it divides by one less the half of its output, which must not come near one
    prior = {"prior": model} | _text(False)
    decoder = WuerstchenDiffNeXt(
        c_cond=32, c_hidden=[32], nhead=[2], blocks=[1], level_config=["CTA"], inject_effnet=[True], c_r=32,
        clip_embd=32, effnet_embd=4,
    )  # fmt: skip
    return _cascade(pipeline_class, prior, {"decoder": decoder} | _text(False))


def _stable_cascade(pipeline_class: type) -> Any:
    blocks = {
        "block_types_per_layer": [["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]],
        "block_out_channels": [32], "num_attention_heads": [2], "down_num_layers_per_block": [1],
        "up_num_layers_per_block": [1], "down_blocks_repeat_mappers": [1], "up_blocks_repeat_mappers": [1],
        "conditioning_dim": 32, "clip_text_pooled_in_channels": 32, "in_channels": 4, "out_channels": 4,
        "dropout": [0.1], "timestep_ratio_embedding_dim": 32,
    }  # fmt: skip
    prior = d.StableCascadeUNet(
        **blocks,
        clip_text_in_channels=32,
        clip_image_in_channels=32,
        switch_level=[False],
    )
    decoder = d.StableCascadeUNet(**blocks, patch_size=2, effnet_in_channels=4, timestep_conditioning_type=("sca",))
    vision = {"image_encoder": clip_vision(), "feature_extractor": clip_image_processor()}
    return _cascade(pipeline_class, {"prior": prior} | _text(True) | vision, {"decoder": decoder} | _text(True))


def _cascade(pipeline_class: type, prior: dict[str, Any], decoder: dict[str, Any]) -> Any:
    name = pipeline_class.__name__
    parts = prior | {"scheduler": d.DDPMWuerstchenScheduler()}
    if "Prior" not in name:
        parts = decoder | {"scheduler": d.DDPMWuerstchenScheduler(), "vqgan": _vqgan()}
        if "Combined" in name:
            prior |= {"scheduler": d.DDPMWuerstchenScheduler()}
            parts |= {f"prior_{part}": value for part, value in prior.items()}
    return assemble(pipeline_class, **parts)


def _inputs(pipeline_class: type) -> Any:
    name = pipeline_class.__name__
    sizes = {"height": SIDE, "width": SIDE}

    def inputs(i: int) -> dict[str, Any]:
        if "Prior" in name:
            return sizes
        if "Combined" in name:
            guidance = {"prior_guidance_scale": 2.0 + i, "decoder_guidance_scale": 3.0 + i}
            return sizes | guidance | {"prior_num_inference_steps": 3 + i % 2}
        return {"image_embeddings": noise(i, 1, 4, 3, 3)}

    return inputs


def _amused(pipeline_class: type) -> Any:
    transformer = d.UVit2DModel(
        hidden_size=32, cond_embed_dim=32, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=32,
        vocab_size=33, codebook_size=32, in_channels=32, block_out_channels=32, num_res_blocks=1, num_hidden_layers=1,
        num_attention_heads=2, block_num_heads=2, intermediate_size=40, sample_size=8,
    )  # fmt: skip
    vqvae = d.VQModel(
        block_out_channels=(32, 32), norm_num_groups=8, latent_channels=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=32,
        lookup_from_codebook=True, mid_block_add_attention=False,
    )  # fmt: skip
    return assemble(
        pipeline_class,
        transformer=transformer,
        vqvae=vqvae,
        scheduler=d.AmusedScheduler(mask_token_id=32),
        **_text(True),
    )


SPECIMENS = [
    specimen(family, task, pipeline_class, build, _inputs(pipeline_class))
    for family, task, pipeline_class, build in (
        ("Würstchen", "prior", d.WuerstchenPriorPipeline, _wuerstchen),
        ("Würstchen", "text-to-image", d.WuerstchenDecoderPipeline, _wuerstchen),
        ("Würstchen", "text-to-image", d.WuerstchenCombinedPipeline, _wuerstchen),
        ("Stable Cascade", "prior", d.StableCascadePriorPipeline, _stable_cascade),
        ("Stable Cascade", "text-to-image", d.StableCascadeDecoderPipeline, _stable_cascade),
        ("Stable Cascade", "text-to-image", d.StableCascadeCombinedPipeline, _stable_cascade),
    )
] + [
    specimen("aMUSEd", "text-to-image", d.AmusedPipeline, _amused),
    specimen("aMUSEd", "image-to-image", d.AmusedImg2ImgPipeline, _amused,
             lambda i: {"image": image(i, SIZE), "strength": 0.8}),
    specimen("aMUSEd", "inpainting", d.AmusedInpaintPipeline, _amused,
             lambda i: {"image": image(i, SIZE), "mask_image": mask_image(SIZE)}),
]  # fmt: skip
