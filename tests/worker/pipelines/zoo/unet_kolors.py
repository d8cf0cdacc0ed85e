"""Kolors: the UNet of Stable Diffusion XL, told by a language model of its own."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
from diffusers.pipelines.kolors.pipeline_kolors_img2img import KolorsImg2ImgPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.pag.pipeline_pag_kolors import KolorsPAGPipeline
from transformers import BatchEncoding

from .text import T5_VOCABULARY, assemble, image, kl_vae, word_tokenizer
from .unet_parts import SIZE, euler, sdxl_unet, specimen


class Tokenizer:
    """Tells the positions, too; the class's own needs sentencepiece."""

    def __init__(self) -> None:
        self.words = word_tokenizer(256)

    def __call__(self, text: Any, **settings: Any) -> BatchEncoding:
        encoded = self.words(text, **settings)
        encoded["position_ids"] = torch.arange(encoded["input_ids"].shape[1])[None].repeat(len(encoded["input_ids"]), 1)
        return encoded


def _text_encoder() -> ChatGLMModel:
    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=T5_VOCABULARY, hidden_size=32, ffn_hidden_size=40, kv_channels=8,
        num_attention_heads=4, seq_length=256, add_qkv_bias=True, multi_query_attention=True,
        multi_query_group_num=2, original_rope=True,
    )  # fmt: skip
    encoder = ChatGLMModel(config)
    for parameter in encoder.parameters():  # the class leaves them as the memory was
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.5)
    return encoder


def _unet() -> UNet2DConditionModel:
    # 32 of the pooled text, and six sizes in eight numbers each
    return sdxl_unet(cross_attention_dim=32, encoder_hid_dim=32, encoder_hid_dim_type="text_proj")


def _kolors(pipeline_class: type) -> Any:
    text = {"text_encoder": _text_encoder(), "tokenizer": Tokenizer()}
    return assemble(pipeline_class, vae=kl_vae(), unet=_unet(), scheduler=euler(), **text)


SPECIMENS = [
    specimen("Kolors", "text-to-image", KolorsPipeline, _kolors),
    specimen("Kolors", "text-to-image", KolorsPAGPipeline, _kolors, lambda i: {"pag_scale": 1.0 + i}),
    specimen("Kolors", "image-to-image", KolorsImg2ImgPipeline, _kolors,
             lambda i: {"image": image(i, SIZE), "strength": 0.8}),
]  # fmt: skip
