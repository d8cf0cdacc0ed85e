"""Kandinsky 5 for images, GLM-Image, JoyImage Edit Plus, Cosmos 2 for images."""

from typing import Any

import diffusers
import torch
from diffusers import (
    BriaFibo2Transformer2DModel,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    GlmImageTransformer2DModel,
    JoyImageEditPlusTransformer3DModel,
    Kandinsky5Transformer3DModel,
)

from .dit_bria import wan_vae
from .dit_flux2 import flux2_vae
from .dit_gain import assemble
from .dit_qwen3 import SmallImages
from .specimen import Specimen
from .text import (
    call,
    clip_text,
    clip_tokenizer,
    image,
    kl_vae,
    prompt,
    t5_encoder,
    t5_tokenizer,
)
from .text_llm import llm_tokenizer, qwen2_5_vl, qwen2_processor, qwen3_processor, qwen3_vl

SIZE = 32


def _kandinsky(name: str) -> Any:
    """The VAE halves three times: the class takes eight for granted."""
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=32, in_text_dim2=32, time_dim=16, model_dim=32, ff_dim=40,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(8, 4, 4), visual_cond=name == "Kandinsky5I2IPipeline",
    )  # fmt: skip
    pipe = assemble(
        getattr(diffusers, name),
        transformer=transformer, vae=kl_vae((16, 16, 16, 32)), text_encoder=qwen2_5_vl(),
        tokenizer=qwen2_processor(model_max_length=512), text_encoder_2=clip_text(), tokenizer_2=clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    pipe.resolutions = [(64, 64)]
    return pipe


def _glm_image() -> Any:
    """Without the language model that draws the prior tokens: they are given."""
    transformer = GlmImageTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, text_embed_dim=32,
        time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=64,
    )  # fmt: skip
    return assemble(
        diffusers.GlmImagePipeline,
        tokenizer=t5_tokenizer(), processor=None, text_encoder=t5_encoder(), vision_language_encoder=None,
        vae=kl_vae(latents_mean=[0.1, -0.2, 0.0, 0.2], latents_std=[1.0, 0.9, 1.2, 1.1]), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def _joy_plus() -> Any:
    transformer = JoyImageEditPlusTransformer3DModel(
        in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=32, mlp_width_ratio=2.0, num_layers=2,
        rope_dim_list=[8, 4, 4],
    )  # fmt: skip
    pipe = assemble(
        diffusers.JoyImageEditPlusPipeline,
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=wan_vae(), text_encoder=qwen3_vl(), tokenizer=llm_tokenizer(),
        transformer=transformer, processor=qwen3_processor(), gain=4.0,
    )  # fmt: skip
    pipe.image_processor = SmallImages(vae_scale_factor=4)
    return pipe


class _Harmless:
    """Stands for the safety checker, whose own package is not required here."""

    def to(self, device: Any) -> "_Harmless":
        return self

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def _fibo_2() -> Any:
    """The class reads layers up to the thirty-fifth, three a text input of the transformer."""
    transformer = BriaFibo2Transformer2DModel(
        in_channels=4, dim=32, n_layers=6, n_refiner_layers=1, n_heads=2, cap_feat_dim=48,
        injection_layer_ids=(1, 2, 3, 4, 5), perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8,
        gist_step=2, gist_min_text_len=4, gist_max_text_len=64, axes_dims=(8, 4, 4), axes_lens=(128, 32, 32),
    )  # fmt: skip
    return assemble(
        diffusers.BriaFibo2Pipeline,
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=flux2_vae(),
        text_encoder=qwen3_vl(16, 36), processor=qwen3_processor(),
    )  # fmt: skip


def _cosmos() -> Any:
    transformer = CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=32, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False, extra_pos_embed_type="learnable",
    )  # fmt: skip
    return assemble(
        diffusers.Cosmos2TextToImagePipeline,
        text_encoder=t5_encoder(), tokenizer=t5_tokenizer(), transformer=transformer, vae=wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), safety_checker=_Harmless(),
    )  # fmt: skip


def _call(i: int, size: int = SIZE, length: int = 16, **more: Any) -> dict[str, Any]:
    common = {"height": size, "width": size, "max_sequence_length": length, "negative_prompt": "bad quality"}
    return call(i, **(common | more))


def _glm_call(i: int) -> dict[str, Any]:
    """The glyphs in quotes go to the text encoder; a prior token stands for a patch."""
    drawn = torch.randint(0, 64, (1, 64), generator=torch.Generator().manual_seed(i))
    written = f'{prompt(i)} "{prompt(i + 1)}"'
    return _call(i, negative_prompt=None, prompt=written, prior_token_ids=drawn)


def _kandinsky_specimen(name: str, task: str, arguments: Any) -> Specimen:
    return Specimen(name, "Kandinsky", task, lambda: _kandinsky(name), arguments)


SPECIMENS = [
    _kandinsky_specimen("Kandinsky5T2IPipeline", "text-to-image", lambda i: _call(i, 64)),
    _kandinsky_specimen(
        "Kandinsky5I2IPipeline", "image editing", lambda i: _call(i, 64, 128, image=image(i, 64))
    ),
    Specimen("GlmImagePipeline", "GLM-Image", "text-to-image", _glm_image, _glm_call),
    Specimen(
        "JoyImageEditPlusPipeline", "JoyImage", "image editing", _joy_plus,
        lambda i: _call(i, length=64, images=[image(i), image(i + 10)]),
    ),
    Specimen(
        "BriaFibo2Pipeline", "Bria", "text-to-image", _fibo_2, lambda i: _call(i, max_sequence_length=None)
    ),
    Specimen("Cosmos2TextToImagePipeline", "Cosmos", "text-to-image", _cosmos, _call),
]  # fmt: skip
