"""What the tests need to know about one pipeline class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TASKS = (
    "text-to-image",
    "image-to-image",
    "inpainting",
    "image editing",
    "ControlNet",
    "super-resolution",
    "text-to-video",
    "image-to-video",
    "video-to-video",
    "audio",
    "prior",
    "unconditional",
    "other",
)


@dataclass(frozen=True)
class Specimen:
    """A pipeline class, tiny.

    build: a new pipeline on the CPU in float32, in evaluation mode, its weights drawn from the global seed
    arguments: the keyword arguments of the call of request number i: prompt, seed (a generator of its own), steps and
        guidance differ from one i to the next, sizes and everything else are as small as the class allows and the same
    """

    name: str
    family: str
    task: str
    build: Callable[[], Any]
    arguments: Callable[[int], dict[str, Any]]
