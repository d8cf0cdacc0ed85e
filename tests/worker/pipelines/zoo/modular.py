"""Modular pipelines of the models whose classic pipelines are in the other modules, made of the same components."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import HeliosDMDScheduler, Krea2Transformer2DModel

from . import (
    dit_flux2,
    dit_qwen3,
    flux,
    qwen_image,
    stable_diffusion_3,
    stable_diffusion_xl,
    video_dit,
    video_hunyuan,
    video_ltx2,
    video_more,
    wan,
    z_image,
)
from .specimen import Specimen
from .text import call, image, mask_image, t5_tokenizer, umt5_encoder
from .text_llm import qwen3_vl
from .wan import TEXT_LENGTH

SIZE = 32
LAYERS = (0, 1, 2)


def fill(name: str, components: Mapping[str, Any]) -> Any:
    """The modular pipeline of that name, of those of the components that it has a use for."""
    pipe = getattr(diffusers, name)()
    used = {key: part for key, part in components.items() if key in pipe.pretrained_component_names}
    pipe.update_components(**used)
    return pipe


def save_for_hub(pipe: Any, folder: Path, repository: str) -> Path:
    """Save a modular pipeline as its repository on a hub has it: the index names the repository, not the folder."""
    pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    index = folder / pipe.config_name
    index.write_text(index.read_text().replace(json.dumps(str(folder)), json.dumps(repository)))
    return folder


def of(module: Any, name: str, modular: str, *own: str, reads: bool = False, **changes: Any) -> Callable[[], Any]:
    """Builds a modular pipeline of the components of the specimen `name`, and of the processors `own` of it.

    reads: give it a text encoder, which a specimen of Wan's kind does without
    changes: functions that make components
    """
    specimen = next(one for one in module.SPECIMENS if one.name == name)

    def build() -> Any:
        donor = specimen.build()
        made = {key: make() for key, make in changes.items()}
        words = {"text_encoder": umt5_encoder().eval(), "tokenizer": t5_tokenizer(TEXT_LENGTH)} if reads else {}
        pipe = fill(modular, donor.components | words | made)
        pipe.update_components(**{key: getattr(donor, key) for key in own})
        return pipe

    return build


def _sized(i: int, **more: Any) -> dict[str, Any]:
    return call(i, **({"height": SIZE, "width": SIZE} | more))


def _plain(i: int, **more: Any) -> dict[str, Any]:
    """Without guidance, as distilled models are called."""
    return _sized(i, guidance_scale=None, **more)


def _strong(i: int, **more: Any) -> dict[str, Any]:
    return _sized(i, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4], image=image(i), **more)


def _video(i: int, **more: Any) -> dict[str, Any]:
    return _sized(i, **({"num_frames": 5, "max_sequence_length": 16} | more))


def _helios(i: int, **more: Any) -> dict[str, Any]:
    window = {"num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1], "num_frames": 9, "height": 16, "width": 16}
    return _video(i, **(window | more))


def _pyramid(i: int, **more: Any) -> dict[str, Any]:
    steps = ([2, 2, 2], [3, 2, 2], [2, 3, 2], [2, 2, 3])[i % 4]
    sizes = {"height": 64, "width": 64, "num_inference_steps": None, "pyramid_num_inference_steps_list": steps}
    return _helios(i, **sizes, **more)


def _krea() -> Krea2Transformer2DModel:
    """The modular pipeline reads twelve layers of its text encoder, no fewer."""
    return dit_qwen3.krea_transformer(text_hidden_dim=16, num_text_layers=12).eval()


def _specimen(name: str, family: str, task: str, build: Any, arguments: Any) -> Specimen:
    return Specimen(name, family, task, build, arguments)


KREA = {"transformer": _krea, "text_encoder": lambda: qwen3_vl(16, 36).model.eval()}
SPECIMENS = [
    _specimen(
        "Krea2ModularPipeline", "Krea", "text-to-image",
        of(dit_qwen3, "Krea2Pipeline", "Krea2ModularPipeline", **KREA),
        lambda i: _sized(i, max_sequence_length=16),
    ),
    _specimen(
        "Krea2TurboModularPipeline", "Krea", "text-to-image",
        of(dit_qwen3, "Krea2Pipeline", "Krea2TurboModularPipeline", **KREA),
        lambda i: _plain(i, max_sequence_length=16),
    ),
    _specimen(
        "QwenImage21ModularPipeline", "Qwen-Image", "text-to-image",
        of(dit_qwen3, "QwenImage21Pipeline", "QwenImage21ModularPipeline"),
        lambda i: _sized(i, height=64, width=64, output_resolution=64),
    ),
    _specimen(
        "QwenImage21ModularPipeline-reference", "Qwen-Image", "image editing",
        of(dit_qwen3, "QwenImage21Pipeline", "QwenImage21ModularPipeline"),
        lambda i: _sized(i, height=64, width=64, output_resolution=64, image=image(i, 64)),
    ),
    _specimen(
        "QwenImage21TurboModularPipeline", "Qwen-Image", "text-to-image",
        of(dit_qwen3, "QwenImage21Pipeline", "QwenImage21TurboModularPipeline"),
        lambda i: _plain(i, height=64, width=64, output_resolution=64),
    ),
    _specimen(
        "Ideogram4ModularPipeline", "Ideogram", "text-to-image",
        of(dit_qwen3, "Ideogram4Pipeline", "Ideogram4ModularPipeline", "image_processor"),
        lambda i: _plain(i, guidance_schedule=[(4.0, 3.0, 5.0, 2.0)[i % 4]] * (4, 6, 5, 3)[i % 4]),
    ),
    _specimen(
        "ErnieImageModularPipeline", "Ernie", "text-to-image",
        of(dit_qwen3, "ErnieImagePipeline", "ErnieImageModularPipeline"), _sized,
    ),
    _specimen(
        "QwenImageModularPipeline", "Qwen-Image", "text-to-image",
        of(qwen_image, "QwenImagePipeline", "QwenImageModularPipeline"), _sized,
    ),
    _specimen(
        "QwenImageModularPipeline-image", "Qwen-Image", "image-to-image",
        of(qwen_image, "QwenImagePipeline", "QwenImageModularPipeline"), _strong,
    ),
    _specimen(
        "QwenImageModularPipeline-inpainting", "Qwen-Image", "inpainting",
        of(qwen_image, "QwenImagePipeline", "QwenImageModularPipeline"),
        lambda i: _strong(i, mask_image=mask_image(), output_type="pil"),
    ),
    _specimen(
        "QwenImageModularPipeline-control", "Qwen-Image", "ControlNet",
        of(qwen_image, "QwenImageControlNetPipeline", "QwenImageModularPipeline"),
        lambda i: _sized(i, control_image=image(i)),
    ),
    _specimen(
        "QwenImageEditModularPipeline", "Qwen-Image", "image editing",
        of(qwen_image, "QwenImageEditPipeline", "QwenImageEditModularPipeline"),
        lambda i: _sized(i, height=128, width=128, image=image(i)),
    ),
    _specimen(
        "QwenImageEditPlusModularPipeline", "Qwen-Image", "image editing",
        of(qwen_image, "QwenImageEditPlusPipeline", "QwenImageEditPlusModularPipeline"),
        lambda i: _sized(i, height=128, width=128, image=[image(i), image(i + 10)]),
    ),
    _specimen(
        "QwenImageLayeredModularPipeline", "Qwen-Image", "image editing",
        of(qwen_image, "QwenImageLayeredPipeline", "QwenImageLayeredModularPipeline"),
        lambda i: call(i, image=image(i).convert("RGBA"), layers=1, resolution=640),
    ),
    _specimen(
        "Flux2ModularPipeline", "Flux 2", "text-to-image",
        of(dit_flux2, "Flux2Pipeline", "Flux2ModularPipeline"),
        lambda i: _sized(i, max_sequence_length=80, text_encoder_out_layers=LAYERS),
    ),
    _specimen(
        "Flux2KleinModularPipeline", "Flux 2", "text-to-image",
        of(dit_flux2, "Flux2KleinPipeline", "Flux2KleinModularPipeline"),
        lambda i: _plain(i, max_sequence_length=24, text_encoder_out_layers=LAYERS),
    ),
    _specimen(
        "Flux2KleinBaseModularPipeline", "Flux 2", "image editing",
        of(dit_flux2, "Flux2KleinPipeline", "Flux2KleinBaseModularPipeline"),
        lambda i: _sized(i, max_sequence_length=24, text_encoder_out_layers=LAYERS, image=image(i, 64)),
    ),
    _specimen(
        "FluxModularPipeline", "Flux", "text-to-image", of(flux, "FluxPipeline", "FluxModularPipeline"),
        lambda i: _sized(i, max_sequence_length=16),
    ),
    _specimen(
        "FluxModularPipeline-image", "Flux", "image-to-image", of(flux, "FluxPipeline", "FluxModularPipeline"),
        lambda i: _strong(i, max_sequence_length=16),
    ),
    _specimen(
        "FluxKontextModularPipeline", "Flux", "image editing", of(flux, "FluxPipeline", "FluxKontextModularPipeline"),
        lambda i: _sized(i, max_sequence_length=16, image=image(i), max_area=SIZE * SIZE, _auto_resize=False),
    ),
    _specimen(
        "StableDiffusion3ModularPipeline", "Stable Diffusion 3", "text-to-image",
        of(stable_diffusion_3, "StableDiffusion3Pipeline", "StableDiffusion3ModularPipeline"),
        lambda i: _sized(i, max_sequence_length=16),
    ),
    _specimen(
        "StableDiffusionXLModularPipeline", "Stable Diffusion XL", "text-to-image",
        of(stable_diffusion_xl, "StableDiffusionXLPipeline", "StableDiffusionXLModularPipeline"), _sized,
    ),
    _specimen(
        "StableDiffusionXLModularPipeline-image", "Stable Diffusion XL", "image-to-image",
        of(stable_diffusion_xl, "StableDiffusionXLPipeline", "StableDiffusionXLModularPipeline"), _strong,
    ),
    _specimen(
        "ZImageModularPipeline", "Z-Image", "text-to-image", of(z_image, "ZImagePipeline", "ZImageModularPipeline"),
        lambda i: _sized(i, max_sequence_length=24),
    ),
    _specimen(
        "LTXModularPipeline", "LTX", "text-to-video", of(video_dit, "LTXPipeline", "LTXModularPipeline"), _video,
    ),
    _specimen(
        "LTX2ModularPipeline", "LTX-2", "text-to-video", of(video_ltx2, "LTX2Pipeline", "LTX2ModularPipeline"), _video,
    ),
    _specimen(
        "EchoModularPipeline", "Echo", "text-to-video", of(video_ltx2, "LTX2Pipeline", "EchoModularPipeline"),
        lambda i: {key: value for key, value in _video(i, guidance_scale=None).items() if key != "num_inference_steps"},
    ),
    _specimen(
        "HunyuanVideo15ModularPipeline", "HunyuanVideo", "text-to-video",
        of(video_hunyuan, "HunyuanVideo15Pipeline", "HunyuanVideo15ModularPipeline"),
        lambda i: _sized(i, num_frames=5, height=16, width=16),
    ),
    _specimen(
        "HeliosModularPipeline", "Helios", "text-to-video",
        of(video_more, "HeliosPipeline", "HeliosModularPipeline", reads=True), _helios,
    ),
    _specimen(
        "HeliosPyramidModularPipeline", "Helios", "text-to-video",
        of(video_more, "HeliosPyramidPipeline", "HeliosPyramidModularPipeline", reads=True), _pyramid,
    ),
    _specimen(
        "HeliosPyramidDistilledModularPipeline", "Helios", "text-to-video",
        of(
            video_more, "HeliosPyramidPipeline", "HeliosPyramidDistilledModularPipeline", reads=True,
            scheduler=lambda: HeliosDMDScheduler(gamma=0.25),
        ),
        lambda i: _pyramid(i, guidance_scale=1.0),
    ),
    _specimen("WanModularPipeline", "Wan", "text-to-video", of(wan, "WanPipeline", "WanModularPipeline"), _video),
    _specimen(
        "Wan22ModularPipeline", "Wan", "text-to-video", of(wan, "WanPipeline-two", "Wan22ModularPipeline"),
        lambda i: _video(i, guidance_scale_2=(3.0, 4.0, 2.0, 5.0)[i % 4]),
    ),
    _specimen(
        "WanImage2VideoModularPipeline", "Wan", "image-to-video",
        of(wan, "WanImageToVideoPipeline", "WanImage2VideoModularPipeline", reads=True),
        lambda i: _video(i, image=image(i)),
    ),
    _specimen(
        "Wan22Image2VideoModularPipeline", "Wan", "image-to-video",
        of(wan, "WanImageToVideoPipeline-two", "Wan22Image2VideoModularPipeline", reads=True),
        lambda i: _video(i, image=image(i)),
    ),
    _specimen(
        "Wan22VaceModularPipeline", "Wan", "video-to-video",
        of(wan, "WanVACEPipeline-two", "Wan22VaceModularPipeline", reads=True),
        lambda i: _video(i, video=wan.frames(i), mask=[mask_image()] * 5, reference_images=[image(i + 50)]),
    ),
]  # fmt: skip
