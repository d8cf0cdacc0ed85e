"""Other families with a UNet: latent diffusion from text, Paint by Example, Marigold, UniDiffuser, and older ones."""

from typing import Any

import diffusers as d
from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
    RobertaSeriesConfig,
    RobertaSeriesModelWithTransformation,
)
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from diffusers.pipelines.deprecated.unidiffuser import UniDiffuserTextDecoder
from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import LearnedClassifierFreeSamplingEmbeddings
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import CLIPVisionConfig

from .text import (
    CLIP_VOCABULARY,
    T5_VOCABULARY,
    assemble,
    clip_image_processor,
    clip_text,
    clip_tokenizer,
    clip_vision,
    image,
    kl_vae,
    mask_image,
    word_tokenizer,
)  # fmt: skip
from .unet_parts import SIZE, accepted, ddim, louder, sd, sd_unet, specimen


def _ldm(pipeline_class: type) -> Any:
    bert = LDMBertConfig(
        vocab_size=CLIP_VOCABULARY,
        encoder_layers=2,
        encoder_ffn_dim=40,
        encoder_attention_heads=2,
        head_dim=16,
        d_model=32,
    )
    parts = {"vqvae": kl_vae(), "bert": louder(LDMBertModel(bert), 10.0), "tokenizer": clip_tokenizer()}
    return assemble(pipeline_class, unet=sd_unet(), scheduler=ddim(), **parts)


def _paint(pipeline_class: type) -> Any:
    config = CLIPVisionConfig(
        hidden_size=32, projection_dim=32, num_hidden_layers=5, num_attention_heads=4, image_size=30, patch_size=15,
        intermediate_size=40,
    )  # fmt: skip
    encoder = PaintByExampleImageEncoder(config, proj_size=32)
    return sd(pipeline_class, {"in_channels": 9}, image_encoder=encoder, feature_extractor=clip_image_processor())


def _marigold(prediction: str, modalities: int = 1) -> Any:
    def build(pipeline_class: type) -> Any:
        settings = {"prediction_type": prediction, "default_denoising_steps": 3, "default_processing_resolution": SIZE}
        if modalities > 1:
            settings["target_properties"] = {"target_names": ["albedo", "material"]}
        return sd(pipeline_class, {"in_channels": 4 * (modalities + 1), "out_channels": 4 * modalities}, **settings)

    return build


def _alt(pipeline_class: type) -> Any:
    config = RobertaSeriesConfig(
        hidden_size=32, project_dim=32, intermediate_size=40, num_attention_heads=4, num_hidden_layers=2,
        vocab_size=T5_VOCABULARY, max_position_embeddings=90,
    )  # fmt: skip
    text = {"text_encoder": louder(RobertaSeriesModelWithTransformation(config), 10.0), "tokenizer": word_tokenizer(77)}
    return sd(pipeline_class, image_encoder=None, **text)


def _unidiffuser(pipeline_class: type) -> Any:
    unet = d.UniDiffuserModel(
        text_dim=32, clip_img_dim=32, num_text_tokens=77, num_attention_heads=2, attention_head_dim=8, in_channels=4,
        out_channels=4, num_layers=2, sample_size=SIZE // 2, patch_size=2, norm_num_groups=8, activation_fn="gelu",
        use_data_type_embedding=False, attention_bias=True, num_embeds_ada_norm=1000, norm_type="layer_norm",
        use_patch_pos_embed=False, ff_final_dropout=True, block_type="unidiffuser", use_timestep_embedding=False,
    )  # fmt: skip
    decoder = UniDiffuserTextDecoder(
        prefix_length=77, prefix_inner_dim=32, prefix_hidden_dim=32, vocab_size=T5_VOCABULARY, n_positions=256,
        n_embd=32, n_layer=1, n_head=2, n_inner=40,
    )  # fmt: skip
    return assemble(
        pipeline_class, vae=kl_vae(), text_encoder=clip_text(), image_encoder=clip_vision(), unet=unet,
        scheduler=ddim(), clip_image_processor=clip_image_processor(), clip_tokenizer=clip_tokenizer(),
        text_decoder=decoder, text_tokenizer=word_tokenizer(),
    )  # fmt: skip


def _versatile(pipeline_class: type) -> Any:
    text_unet = UNetFlatConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, attention_head_dim=(2, 4), sample_size=8,
        down_block_types=("DownBlockFlat", "CrossAttnDownBlockFlat"), cross_attention_dim=32,
        up_block_types=("CrossAttnUpBlockFlat", "UpBlockFlat"), mid_block_type="UNetMidBlockFlatCrossAttn",
    )  # fmt: skip
    parts = {
        "tokenizer": clip_tokenizer(), "image_feature_extractor": clip_image_processor(),
        "image_encoder": clip_vision(), "text_encoder": louder(clip_text(projection=True), 5.0),
        "image_unet": sd_unet(), "text_unet": text_unet, "vae": kl_vae(), "scheduler": ddim(),
    }  # fmt: skip
    return assemble(pipeline_class, **accepted(pipeline_class.__init__, parts))


def _vq(pipeline_class: type) -> Any:
    vqvae = d.VQModel(
        block_out_channels=(32, 32), norm_num_groups=8, latent_channels=3, num_vq_embeddings=12, vq_embed_dim=3,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    transformer = d.Transformer2DModel(
        num_attention_heads=2, attention_head_dim=16, num_vector_embeds=13, sample_size=4, cross_attention_dim=32,
        attention_bias=True, num_embeds_ada_norm=20, norm_num_groups=8, norm_type="ada_norm",
        activation_fn="geglu-approximate",
    )  # fmt: skip
    free = LearnedClassifierFreeSamplingEmbeddings(learnable=False)
    return assemble(
        pipeline_class, vqvae=vqvae, text_encoder=clip_text(), tokenizer=clip_tokenizer(),
        transformer=louder(transformer, 3.0),
        scheduler=d.VQDiffusionScheduler(num_vec_classes=13, num_train_timesteps=20),
        learned_classifier_free_sampling_embeddings=free,
    )  # fmt: skip


SPECIMENS = [
    specimen(family, task, pipeline_class, build, inputs, *suffix)
    for family, task, pipeline_class, build, inputs, *suffix in (
        ("latent diffusion", "text-to-image", d.LDMTextToImagePipeline, _ldm, lambda i: {}),
        ("Stable Diffusion", "inpainting", d.PaintByExamplePipeline, _paint,
         lambda i: {"image": image(i, SIZE), "mask_image": mask_image(SIZE), "example_image": image(i + 10)}),
        ("Marigold", "other", d.MarigoldDepthPipeline, _marigold("depth"), lambda i: {"image": image(i, SIZE)}),
        ("Marigold", "other", d.MarigoldNormalsPipeline, _marigold("normals"), lambda i: {"image": image(i, SIZE)}),
        ("Marigold", "other", d.MarigoldIntrinsicsPipeline, _marigold("intrinsics", 2),
         lambda i: {"image": image(i, SIZE)}),
        ("AltDiffusion", "text-to-image", d.AltDiffusionPipeline, _alt, lambda i: {}),
        ("AltDiffusion", "image-to-image", d.AltDiffusionImg2ImgPipeline, _alt,
         lambda i: {"image": image(i, SIZE), "strength": 0.8}),
        ("UniDiffuser", "text-to-image", d.UniDiffuserPipeline, _unidiffuser, lambda i: {}),
        ("UniDiffuser", "other", d.UniDiffuserPipeline, _unidiffuser,
         lambda i: {"prompt": None, "negative_prompt": None}, ", image and text"),
        ("Versatile Diffusion", "text-to-image", d.VersatileDiffusionTextToImagePipeline, _versatile, lambda i: {}),
        ("Versatile Diffusion", "image-to-image", d.VersatileDiffusionImageVariationPipeline, _versatile,
         lambda i: {"image": image(i), "negative_prompt": None}),
        ("VQ Diffusion", "text-to-image", d.VQDiffusionPipeline, _vq, lambda i: {}),
    )
]  # fmt: skip
