"""Checks what a replica says about itself before anybody logs it, connects to it or computes with it. Pure.

A replica may be of another version, broken, or not one at all: a head without a secret accepts any process.
"""

import math
import re
from typing import Any

from msgspec.structs import asdict

from omni_worker.config import lora_source
from omni_worker.coordinator.messages import Register
from omni_worker.model_card import IMAGE, LIST, SCALARS, ModelCard

HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
IPV6 = r"\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?\]"
ADDRESS = re.compile(rf"tcp://(?:{HOST_NAME}|{IPV6}):([0-9]{{1,5}})")
NAME = re.compile(r"[\x21-\x7e]{1,256}")
MAX_PORT = 65_535
MAX_TEXT = 32_000
MAX_SHOWN = 80
MAX_LORAS = 1024
MAX_LORA_TEXT = 2048
MAX_ARGUMENTS = 128
MAX_DEFAULT = 1000
KINDS = {*SCALARS, LIST, IMAGE}
MODES = ("step", "request", "generate", "encode")
IMAGES = ("none", "one", "several")
NUMBERS = {
    "context_length": (1, 2**40),
    "size_multiple": (1, 4096),
    "steps": (1, 10**6),
    "frames": (1, 10**6),
    "frame_multiple": (1, 4096),
    "fps": (1e-3, 1e4),
    "seconds": (1e-3, 1e6),
    "sample_rate": (1, 10**7),
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
    return _why_loras_unusable(message) or _why_card_unusable(message.card)


def _why_loras_unusable(message: Register) -> str | None:
    loras, head = message.loras.loras, message.loras.head
    if len(loras) > MAX_LORAS or not all(lora_source.NAME.fullmatch(lora.source.name) for lora in loras):
        return f"it names LoRA adapters {shown([lora.source.name for lora in loras])}: expected up to {MAX_LORAS} names"
    if head and not NAME.fullmatch(head):
        return f"it follows a head {shown(head)}: expected up to 256 printable characters"
    for lora in loras:
        texts = (lora.source.source, lora.source.weight_name or "", lora.reason or "")
        if any(len(text) > MAX_LORA_TEXT or not text.isprintable() for text in texts):
            return f"it describes the LoRA adapter {lora.source.name} with {shown(texts)}: expected short plain text"
        if not math.isfinite(lora.source.scale):
            return f"it names a scale {lora.source.scale} for the LoRA adapter {lora.source.name}"
    return None


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
    if len(card.loras) > MAX_LORAS or not all(map(NAME.fullmatch, card.loras)):
        return f"its model card names LoRA adapters {shown(card.loras)}: expected up to {MAX_LORAS} printable names"
    arguments = card.arguments
    if len(arguments) > MAX_ARGUMENTS or not all(NAME.fullmatch(argument.name) for argument in arguments):
        return f"its model card names {len(arguments)} arguments: expected up to {MAX_ARGUMENTS} with printable names"
    for argument in arguments:
        if not {*argument.kinds} <= KINDS or len(repr(argument.default)) > MAX_DEFAULT:
            return f"its model card describes the argument {shown(argument.name)} in an unknown way"
    if len(card.defaults.negative_prompt or "") > MAX_TEXT:
        return f"its model card has a negative prompt of more than {MAX_TEXT} characters"
    return None
