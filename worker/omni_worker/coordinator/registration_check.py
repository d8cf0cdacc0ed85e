"""Checks what a replica says about itself before anybody logs it, connects to it or computes with it. Pure.

A replica may be of another version, broken, or not one at all: a head without a secret accepts any process.
"""

import math
import re
from typing import Any

from msgspec.structs import asdict

from omni_worker.coordinator.messages import Register
from omni_worker.model_card import ModelCard

HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
IPV6 = r"\[?[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?\]?"
ADDRESS = re.compile(rf"tcp://(?:{HOST_NAME}|{IPV6}):([0-9]{{1,5}})")
NAME = re.compile(r"[\x21-\x7e]{1,256}")
MAX_PORT = 65_535
MAX_TEXT = 32_000
MAX_SHOWN = 80
MODES = ("step", "request", "generate", "encode")
IMAGES = ("none", "one", "several")
NUMBERS = {
    "context_length": (1, 2**40),
    "size_multiple": (1, 4096),
    "steps": (1, 10**6),
    "frames": (1, 10**6),
    "frame_multiple": (1, 4096),
    "fps": (1e-3, 1e4),
    "num_inference_steps": (1, 10**6),
    "guidance_scale": (-1e6, 1e6),
    "width": (1, 10**6),
    "height": (1, 10**6),
    "num_frames": (1, 10**6),
    "strength": (0, 1),
    "default_strength": (0, 1),
}
"""The least and the greatest value of each number in a card and its defaults; None is always possible."""


def why_unusable(message: Register) -> str | None:
    """Why a registration cannot be accepted from anybody, as a message for a person; None if it can."""
    found = ADDRESS.fullmatch(message.address)
    if found is None or not 1 <= int(found[1]) <= MAX_PORT:
        return f"its address is {shown(message.address)}: expected tcp://HOST:PORT (--omni-replica-address)"
    for name, text in (("uid", message.uid), ("engine", message.engine), ("digest", message.digest)):
        if not NAME.fullmatch(text):
            return f"its {name} is {shown(text)}: expected up to 256 printable characters"
    if message.host and not NAME.fullmatch(message.host):
        return f"its host name is {shown(message.host)}: expected up to 256 printable characters"
    return _why_card_unusable(message.card)


def shown(value: object) -> str:
    """A value of the replica's for a message: in quotes, without control characters, and short."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _why_card_unusable(card: ModelCard) -> str | None:
    values: list[tuple[str, Any]] = [*asdict(card).items(), *asdict(card.defaults).items()]
    for name, value in values:
        least, most = NUMBERS.get(name, (0, 0))
        if name in NUMBERS and value is not None and not (math.isfinite(value) and least <= value <= most):
            return f"its model card says {name} {shown(value)}: expected {least:g} to {most:g}"
    for name, value, choices in (("mode", card.mode, MODES), ("image", card.image, IMAGES)):
        if value not in choices:
            return f"its model card says {name} {shown(value)}: expected one of {', '.join(choices)}"
    if not NAME.fullmatch(card.pipeline):
        return f"its model card says pipeline {shown(card.pipeline)}: expected up to 256 printable characters"
    if len(card.defaults.negative_prompt or "") > MAX_TEXT:
        return f"its model card has a negative prompt of more than {MAX_TEXT} characters"
    return None
