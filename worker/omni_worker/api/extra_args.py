"""`extra_args` of a request: limits, and the images among them. What arguments there are is in the model's card.

An image is a `data:` URL, or several in a list, until it is decoded; files of a form become such URLs.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from omni_worker.api.errors import ApiError
from omni_worker.api.images.data_urls import decode_data_url
from omni_worker.api.images.decoding import ImageDecoder
from omni_worker.config.api import Limits
from omni_worker.errors import RequestError
from omni_worker.model_card import IMAGE, MAX_SIDE, ModelCard
from omni_worker.requests import GenerationParams

FIELD = "extra_args"
DATA = "data:"


def with_images(extra_args: Mapping[str, Any], files: Mapping[str, Sequence[bytes]]) -> dict[str, Any]:
    """The arguments with the image files of a form. Raises ApiError for one that is given twice."""
    if twice := extra_args.keys() & files.keys():
        raise ApiError(400, f"{FIELD}: {min(twice)} is given twice", FIELD, "invalid_value")
    urls = {
        name: [f"{DATA};base64,{base64.b64encode(content).decode()}" for content in contents]
        for name, contents in files.items()
    }
    return {**extra_args, **{name: found if len(found) > 1 else found[0] for name, found in urls.items()}}


def check_extra_args(extra_args: Mapping[str, Any], card: ModelCard, limits: Limits) -> None:
    """Raises RequestError if the model has no such arguments, or a value is above a limit."""
    images = {argument.name for argument in card.arguments if IMAGE in argument.kinds}
    card.check_arguments(
        {name: value for name, value in extra_args.items() if name not in images}, images & {*extra_args}
    )
    for name, value in extra_args.items():
        if name in images:
            _check_image(name, value)
        else:
            _check_limit(name, value, limits)


def _check_image(name: str, value: Any) -> None:
    urls = value if isinstance(value, list) else [value]
    if not urls or not all(isinstance(url, str) and url.startswith(DATA) for url in urls):
        message = (
            f"{FIELD}: {name} takes an image, as data:image/png;base64,…, or as the file {FIELD}[{name}] of a form"
        )
        raise RequestError("invalid", message, FIELD)


def _check_limit(name: str, value: Any, limits: Limits) -> None:
    """What an argument asks for by its name: steps, frames, seconds, a side in pixels, a text, or values for every
    step."""
    if isinstance(value, list):
        for item in value:
            _check_limit(name, item, limits)
        found, most, unit = len(value), limits.steps, "values"
    elif isinstance(value, str):
        found, most, unit = len(value), limits.prompt, "characters"
    elif isinstance(value, bool):
        return
    elif "steps" in name:
        found, most, unit = value, limits.steps, "steps"
    elif "frames" in name:
        found, most, unit = value, limits.frames, "frames"
    elif _is_duration(name):
        found, most, unit = value, limits.audio_seconds, "seconds"
    else:
        found, most, unit = (value, MAX_SIDE, "pixels") if _is_side(name) else (0, 0, "")
    if found > most:
        raise RequestError("invalid", f"{FIELD}: {name} has {found} {unit}, more than the {most} allowed here", FIELD)


def _is_duration(name: str) -> bool:
    return "duration" in name or "seconds" in name or name.endswith("_in_s")


def _is_side(name: str) -> bool:
    return any(word in name for word in ("width", "height", "resolution", "size"))


async def with_decoded_images(params: GenerationParams, decoder: ImageDecoder) -> GenerationParams:
    """The parameters of a request that passed the check, with its `data:` URLs decoded. Raises RequestError."""
    urls: dict[str, list[str]] = {}
    for name, value in params.extra_args.items():
        found = value if isinstance(value, list) else [value]
        if found and all(isinstance(url, str) and url.startswith(DATA) for url in found):
            urls[name] = found
    if not urls:
        return params
    files = [await asyncio.to_thread(decode_data_url, url, FIELD) for found in urls.values() for url in found]
    images = iter((await decoder.decode(files, FIELD)).images)
    return replace(
        params,
        extra_args={name: value for name, value in params.extra_args.items() if name not in urls},
        extra_images={name: [next(images) for _ in found] for name, found in urls.items()},
    )
