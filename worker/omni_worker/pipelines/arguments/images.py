"""The input images of a pipeline and the lengths of its videos, found in its signature.

diffusers does not declare whether a list of images holds several references for one result or one image for each result
of a batch, nor whether an image whose default is None is optional. The name of the pipeline's class decides these.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from omni_worker import model_card
from omni_worker.pipelines.modular import ModularCall
from omni_worker.requests import GenerationParams

IMAGE_ARGUMENTS = ("image", "images", "input_images")
MULTI_IMAGE_CLASSES = ("Flux2", "Flux3", "QwenImageEditPlus", "QwenImage21", "BriaFibo2", "ZImageOmni", "OmniGen")
IMAGE_REQUIRING_CLASSES = (
    "Img2Img", "Image2Image", "ImageToImage", "Inpaint", "Image2Video", "ImageToVideo", "Edit", "ControlNet", "Upscale",
    "Variation",
)  # fmt: skip
FRAME_RATE_ARGUMENTS = ("frame_rate", "fps", "target_fps")
MEDIA_ARGUMENTS = (*IMAGE_ARGUMENTS, "mask_image", "strength", "num_frames", *FRAME_RATE_ARGUMENTS)
"""The arguments that a request's images and the length of its video set."""
DEFAULT_FPS = 16.0


def accepted_media(pipe: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The fields of a ModelCard that describe images and videos."""
    return _image_fields(pipe, parameters) | _video_fields(pipe, parameters)


def _image_fields(pipe: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    kind, is_modular = type(pipe).__name__, isinstance(pipe, ModularCall)
    name = next((name for name in IMAGE_ARGUMENTS if name in parameters), None)
    if name is None:
        return {}
    takes_mask, takes_strength = "mask_image" in parameters, "strength" in parameters
    takes_several = (is_modular or not takes_mask) and (
        name == "input_images" or any(part in kind for part in MULTI_IMAGE_CLASSES)
    )
    has_default = parameters[name].default is not inspect.Parameter.empty
    return {
        "image": "several" if takes_several else "one",
        "needs_image": not has_default
        or any(part in kind for part in IMAGE_REQUIRING_CLASSES)
        or (not is_modular and (takes_mask or takes_strength)),  # modular pipelines choose blocks by what they get
        "mask": takes_mask,
        "strength": takes_strength,
        "default_strength": _number(parameters["strength"]) if takes_strength else None,
    }


def _video_fields(pipe: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    if "num_frames" not in parameters:
        return {}
    fps = next((_number(parameters[name]) for name in FRAME_RATE_ARGUMENTS if name in parameters), None)
    multiple = getattr(pipe, "vae_scale_factor_temporal", getattr(pipe, "vae_temporal_compression_ratio", 1))
    frames = _number(parameters["num_frames"]) or getattr(pipe, "default_num_frames", None)
    return {
        "video": True,
        "frames": None if frames is None else int(frames),
        "fps": float(fps or DEFAULT_FPS),
        "frame_multiple": int(multiple or 1),
    }


def default_steps(parameters: Mapping[str, inspect.Parameter]) -> int | None:
    """A pipeline's default number of steps."""
    found = _number(parameters["num_inference_steps"]) if "num_inference_steps" in parameters else None
    return None if found is None else int(found)


def default_size(pipe: Any, parameters: Mapping[str, inspect.Parameter]) -> tuple[int | None, int | None]:
    """The width and height that a pipeline generates by default; None if that is not known.

    They are in its signature or its attributes, or follow from the size of its latents.
    """
    width, height = (_number(parameters[name]) if name in parameters else None for name in ("width", "height"))
    if width and height:
        return int(width), int(height)
    width, height = (getattr(pipe, f"default_{side}", None) for side in ("width", "height"))
    if width and height:
        return int(width), int(height)
    latent = getattr(pipe, "default_sample_size", None)
    if latent is None:
        latent = getattr(getattr(getattr(pipe, "unet", None), "config", None), "sample_size", None)
    scale = getattr(pipe, "vae_scale_factor", None)
    if isinstance(latent, int) and isinstance(scale, int) and 0 < latent * scale <= model_card.MAX_SIDE:
        return latent * scale, latent * scale
    return None, None


def _number(parameter: inspect.Parameter) -> float | None:
    value = parameter.default
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def media_arguments(params: GenerationParams, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """A request's images, strength and video length, as the keyword arguments that the pipeline has for them."""
    requested: dict[str, Any] = {"num_frames": params.frames, "strength": params.strength}
    requested |= dict.fromkeys(FRAME_RATE_ARGUMENTS, params.fps)
    if params.images:
        name = next((name for name in IMAGE_ARGUMENTS if name in parameters), IMAGE_ARGUMENTS[0])
        inputs = [Image.fromarray(np.asarray(image)) for image in params.images]
        requested[name] = inputs if len(inputs) > 1 or name != "image" else inputs[0]
    if params.mask is not None:
        requested["mask_image"] = Image.fromarray(np.asarray(params.mask))
    return {name: value for name, value in requested.items() if value is not None and name in parameters}


def fewest_steps(strength: float | None, parameters: Mapping[str, inspect.Parameter]) -> int:
    """The smallest number of steps of which at least one runs. With an input image, the first steps are skipped."""
    if "strength" not in parameters:
        return 1
    share = strength or _number(parameters["strength"]) or 1.0
    return model_card.fewest_steps(share)
