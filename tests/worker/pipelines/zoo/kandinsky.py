"""Kandinsky 2.1, 2.2 and 3, and UnCLIP: a prior from text to an embedding of an image, a decoder to pixels."""

from typing import Any

import diffusers as d
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

from .text import (
    T5_VOCABULARY,
    assemble,
    clip_image_processor,
    clip_text,
    clip_tokenizer,
    clip_vision,
    image,
    mask_image,
    noise,
    t5_encoder,
    t5_tokenizer,
    word_tokenizer,
)  # fmt: skip
from .unet_parts import SIZE, accepted, ddim, louder, sd_unet, specimen

HINT = 4 * SIZE  # the hint's network quarters each side of what is eight times a latent


def _movq() -> d.VQModel:
    return d.VQModel(
        block_out_channels=(32, 64), latent_channels=4, num_vq_embeddings=12, vq_embed_dim=4, norm_num_groups=8,
        norm_type="spatial", down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    )  # fmt: skip


def _prior() -> dict[str, Any]:
    prior = d.PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1, num_embeddings=77
    )
    louder(prior.proj_in, 10.0)
    return {
        "prior": prior,
        "image_encoder": clip_vision(), "image_processor": clip_image_processor(),
        "text_encoder": clip_text(32, projection=True), "tokenizer": clip_tokenizer(),
        "scheduler": d.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
    }  # fmt: skip


def _unet(addition: str, **changes: Any) -> d.UNet2DConditionModel:
    simple = {
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": 16, "out_channels": 8, "resnet_time_scale_shift": "scale_shift",
        "addition_embed_type": addition, "encoder_hid_dim": 32,
        "encoder_hid_dim_type": "text_image_proj" if addition == "text_image" else "image_proj",
    }  # fmt: skip
    unet = sd_unet(**(simple | changes))
    if addition == "image_hint":
        louder(unet.add_embedding.input_hint_block, 3.0)
    return unet


def _v21_text() -> MultilingualCLIP:
    config = {
        "vocab_size": T5_VOCABULARY, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 40,
        "max_position_embeddings": 90, "transformerDimSize": 32, "imageDimSize": 32, "hidden_size": 32,
    }  # fmt: skip
    return MultilingualCLIP(MCLIPConfig(**config))


def _decoder(version: str, pipeline_class: type) -> dict[str, Any]:
    if version == "2.1":
        channels = {"in_channels": 9} if "Inpaint" in pipeline_class.__name__ else {}
        text = {"text_encoder": _v21_text(), "tokenizer": word_tokenizer(77)}
        return {"unet": _unet("text_image", **channels), "scheduler": ddim(), "movq": _movq()} | text
    name = pipeline_class.__name__
    channels = {"in_channels": 9 if "Inpaint" in name else 8 if "Controlnet" in name else 4}
    unet = _unet("image_hint" if "Controlnet" in name else "image", **channels)
    return {"unet": unet, "scheduler": ddim(), "movq": _movq()}


def _build(version: str) -> Any:
    def build(pipeline_class: type) -> Any:
        name = pipeline_class.__name__
        if "Prior" in name:
            return assemble(pipeline_class, **_prior())
        parts = _decoder(version, pipeline_class)
        if "Combined" in name:
            parts |= {f"prior_{part}": value for part, value in _prior().items()}
        return assemble(pipeline_class, **parts)

    return build


def _inputs(pipeline_class: type) -> Any:
    name = pipeline_class.__name__

    def inputs(i: int) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if "Prior" not in name and "Combined" not in name:
            more |= {"image_embeds": noise(i, 1, 32), "negative_image_embeds": noise(i + 50, 1, 32)}
        if "Img2Img" in name or "Emb2Emb" in name:
            more |= {"image": image(i, SIZE), "strength": 0.8}
        if "Inpaint" in name:
            more |= {"image": image(i, SIZE), "mask_image": mask_image(SIZE)}
        if "Controlnet" in name:
            more["hint"] = noise(i + 100, 1, 3, HINT, HINT)
        if "Combined" in name:
            more |= {"prior_num_inference_steps": 2 + i % 2, "prior_guidance_scale": 2.0 + i % 2}
        return more

    return inputs


def _kandinsky3(pipeline_class: type) -> Any:
    unet = d.Kandinsky3UNet(
        block_out_channels=(32, 64), attention_head_dim=16, groups=8, layers_per_block=2, time_embedding_dim=16,
        cross_attention_dim=32, encoder_hid_dim=32,
    )  # fmt: skip
    text = {"text_encoder": t5_encoder(), "tokenizer": t5_tokenizer(128)}
    return assemble(pipeline_class, unet=unet, scheduler=d.DDPMScheduler(), movq=_movq(), **text)


def _unclip(pipeline_class: type) -> Any:
    def super_resolution() -> d.UNet2DModel:
        return d.UNet2DModel(
            sample_size=2 * SIZE, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8, in_channels=6,
            down_block_types=("ResnetDownsampleBlock2D",) * 2, up_block_types=("ResnetUpsampleBlock2D",) * 2,
        )  # fmt: skip

    def scheduler(**changes: Any) -> d.UnCLIPScheduler:
        return d.UnCLIPScheduler(num_train_timesteps=1000, **changes)

    parts = {
        "prior": _prior()["prior"], "text_encoder": clip_text(32, projection=True), "tokenizer": clip_tokenizer(),
        "image_encoder": clip_vision(), "feature_extractor": clip_image_processor(),
        "text_proj": UnCLIPTextProjModel(
            clip_extra_context_tokens=2, clip_embeddings_dim=32, time_embed_dim=128, cross_attention_dim=32
        ),
        "decoder": _unet(
            None, in_channels=3, out_channels=6, class_embed_type="identity", sample_size=SIZE, encoder_hid_dim=None,
            encoder_hid_dim_type=None,
        ),
        "super_res_first": super_resolution(), "super_res_last": super_resolution(),
        "prior_scheduler": scheduler(variance_type="fixed_small_log", prediction_type="sample"),
        "decoder_scheduler": scheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": scheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    }  # fmt: skip
    return assemble(pipeline_class, **accepted(pipeline_class.__init__, parts))


def _unclip_inputs(pipeline_class: type) -> Any:
    def inputs(i: int) -> dict[str, Any]:
        steps = {
            "prior_num_inference_steps": 2 + i % 2, "decoder_num_inference_steps": 3 + i % 2,
            "super_res_num_inference_steps": 2 + i % 2, "decoder_guidance_scale": 3.0 + i,
        }  # fmt: skip
        return accepted(pipeline_class.__call__, steps | {"image": image(i)})

    return inputs


SPECIMENS = [
    specimen(f"Kandinsky {version}", task, pipeline_class, _build(version), _inputs(pipeline_class))
    for version, task, pipeline_class in (
        ("2.2", "text-to-image", d.KandinskyV22Pipeline),
        ("2.2", "image-to-image", d.KandinskyV22Img2ImgPipeline),
        ("2.2", "inpainting", d.KandinskyV22InpaintPipeline),
        ("2.2", "ControlNet", d.KandinskyV22ControlnetPipeline),
        ("2.2", "ControlNet", d.KandinskyV22ControlnetImg2ImgPipeline),
        ("2.2", "prior", d.KandinskyV22PriorPipeline),
        ("2.2", "prior", d.KandinskyV22PriorEmb2EmbPipeline),
        ("2.2", "text-to-image", d.KandinskyV22CombinedPipeline),
        ("2.2", "image-to-image", d.KandinskyV22Img2ImgCombinedPipeline),
        ("2.2", "inpainting", d.KandinskyV22InpaintCombinedPipeline),
        ("2.1", "text-to-image", d.KandinskyPipeline),
        ("2.1", "image-to-image", d.KandinskyImg2ImgPipeline),
        ("2.1", "inpainting", d.KandinskyInpaintPipeline),
        ("2.1", "prior", d.KandinskyPriorPipeline),
        ("2.1", "text-to-image", d.KandinskyCombinedPipeline),
        ("2.1", "image-to-image", d.KandinskyImg2ImgCombinedPipeline),
        ("2.1", "inpainting", d.KandinskyInpaintCombinedPipeline),
    )
] + [
    specimen("Kandinsky 3", "text-to-image", d.Kandinsky3Pipeline, _kandinsky3),
    specimen("Kandinsky 3", "image-to-image", d.Kandinsky3Img2ImgPipeline, _kandinsky3,
             lambda i: {"image": image(i, SIZE), "strength": 0.8}),
    specimen("UnCLIP", "text-to-image", d.UnCLIPPipeline, _unclip, _unclip_inputs(d.UnCLIPPipeline)),
    specimen("UnCLIP", "image-to-image", d.UnCLIPImageVariationPipeline, _unclip,
             _unclip_inputs(d.UnCLIPImageVariationPipeline)),
]  # fmt: skip
