"""Flux and what grew from it: image to image, inpainting, fill, control, ControlNet, Kontext, Redux; VisualCloze."""

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from .dit_gain import assemble
from .specimen import Specimen
from .text import (
    call,
    clip_text,
    clip_tokenizer,
    image,
    kl_vae,
    mask_image,
    prompt,
    t5_encoder,
    t5_tokenizer,
    word_tokenizer,
)

SIZE = 32  # pixels a side; the VAE halves it, packing halves it again


def _transformer(kind: type = FluxTransformer2DModel, channels: int = 16, **changes: Any) -> Any:
    config = {
        "patch_size": 1, "in_channels": channels, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8],
        "guidance_embeds": True,
    }  # fmt: skip
    return kind(**(config | changes))


def _text() -> dict[str, Any]:
    return {
        "text_encoder": clip_text(), "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5_encoder(), "tokenizer_2": t5_tokenizer(),
    }  # fmt: skip


def _build(name: str, channels: int = 16, controlnet: bool = False, **more: Any) -> Any:
    """`channels` is what the transformer reads; it writes four latent channels, packed by four."""
    if controlnet:
        more["controlnet"] = _transformer(FluxControlNetModel)
    return assemble(
        getattr(diffusers, name),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=_transformer(channels=channels, out_channels=16),
        vae=kl_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        **(_text() | more),
    )


def _call(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    """`inputs` names the images wanted, each drawn from the seed (a mask is the same for all)."""
    drawn = {name: mask_image(SIZE) if "mask" in name else image(i + 10 * k, SIZE) for k, name in enumerate(inputs)}
    return call(i, height=SIZE, width=SIZE, max_sequence_length=16, **drawn, **more)


def _strong(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    return _call(i, *inputs, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4], **more)


def _kontext(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    return _call(i, *inputs, max_area=SIZE * SIZE, _auto_resize=False, **more)


def _true_cfg(i: int) -> dict[str, Any]:
    return _call(i, negative_prompt="bad quality", true_cfg_scale=(4.0, 3.0, 5.0, 2.0)[i % 4], guidance_scale=3.5)


def _redux() -> Any:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    return assemble(
        diffusers.FluxPriorReduxPipeline,
        image_encoder=SiglipVisionModel(vision),
        feature_extractor=SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        image_embedder=ReduxImageEncoder(redux_dim=32, txt_in_features=32),
        **_text(),
    )


def _redux_call(i: int) -> dict[str, Any]:
    return {"image": image(i), "prompt": prompt(i), "pooled_prompt_embeds_scale": (1.0, 0.8, 0.6, 0.9)[i % 4]}


def _visual_cloze(name: str) -> Any:
    """Its template is long: one token a word."""
    pipe = _build(f"{name}Pipeline", channels=48, resolution=SIZE, tokenizer_2=word_tokenizer())
    for part in ("generation_pipe", "upsampling_pipe"):
        if hasattr(pipe, part):
            getattr(pipe, part).set_progress_bar_config(disable=True)
    return pipe


def _cloze_images(i: int) -> list[list[Any]]:
    """One row of an example and one with the target left out."""
    return [[image(i, SIZE), image(i + 10, SIZE)], [image(i + 20, SIZE), None]]


def _cloze(i: int, **more: Any) -> dict[str, Any]:
    texts = {"task_prompt": prompt(i), "content_prompt": prompt(i + 1), "prompt": None}
    return call(i, image=_cloze_images(i), max_sequence_length=80, **texts, **more)


def _specimen(name: str, task: str, arguments: Any, suffix: str = "", **build: Any) -> Specimen:
    return Specimen(name + suffix, "Flux", task, lambda: _build(name, **build), arguments)


SPECIMENS = [
    _specimen("FluxPipeline", "text-to-image", _call),
    _specimen("FluxPipeline", "text-to-image", _true_cfg, "-true-cfg"),
    _specimen("FluxImg2ImgPipeline", "image-to-image", lambda i: _strong(i, "image")),
    _specimen("FluxInpaintPipeline", "inpainting", lambda i: _strong(i, "image", "mask_image")),
    _specimen("FluxFillPipeline", "inpainting", lambda i: _call(i, "image", "mask_image"), channels=16 + 16 + 16),
    _specimen("FluxControlPipeline", "ControlNet", lambda i: _call(i, "control_image"), channels=32),
    _specimen(
        "FluxControlImg2ImgPipeline", "ControlNet", lambda i: _strong(i, "image", "control_image"), channels=32
    ),
    _specimen(
        "FluxControlInpaintPipeline", "ControlNet", lambda i: _strong(i, "image", "control_image", "mask_image"),
        channels=32,
    ),
    _specimen("FluxControlNetPipeline", "ControlNet", lambda i: _call(i, "control_image"), controlnet=True),
    _specimen(
        "FluxControlNetImg2ImgPipeline", "ControlNet", lambda i: _strong(i, "image", "control_image"), controlnet=True
    ),
    _specimen(
        "FluxControlNetInpaintPipeline", "ControlNet", lambda i: _strong(i, "image", "control_image", "mask_image"),
        controlnet=True,
    ),
    _specimen("FluxKontextPipeline", "image editing", lambda i: _kontext(i, "image")),
    _specimen("FluxKontextInpaintPipeline", "inpainting", lambda i: _kontext(i, "image", "mask_image")),
    Specimen("FluxPriorReduxPipeline", "Flux", "prior", _redux, _redux_call),
    Specimen(
        "VisualClozeGenerationPipeline", "Flux", "image editing", lambda: _visual_cloze("VisualClozeGeneration"), _cloze
    ),
    Specimen(
        "VisualClozePipeline", "Flux", "image editing", lambda: _visual_cloze("VisualCloze"),
        lambda i: _cloze(i, upsampling_height=SIZE, upsampling_width=SIZE, upsampling_strength=0.6),
    ),
]  # fmt: skip
