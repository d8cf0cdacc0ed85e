"""How much device memory the weights of a model take, from the headers of its files and the settings of loading."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omni_settings.load import LoadSettings, Offload, Quantization

WEIGHTS_FILE = re.compile(r"(model|diffusion_pytorch_model)(-\d{5}-of-\d{5})?\.safetensors")
"""The names of the weights that are loaded by default: one file, or its shards, and no variant."""
LENGTH_BYTES = 8
"""At the start of a safetensors file: the length of its header."""
MAX_HEADER = 100_000_000
STORED_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Bytes of a value in each dtype that loading converts."""
LOADED_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
GB = 1e9


@dataclass(frozen=True)
class Weights:
    """The weights of one component: values that loading converts to its dtype, and bytes that stay as they are."""

    values: float = 0
    other_bytes: float = 0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.values + other.values, self.other_bytes + other.other_bytes)


def header_length(start: bytes) -> int:
    """The length of a safetensors file's header, from its first LENGTH_BYTES. Raises ValueError for any other file."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER:
        raise ValueError("it is not in the safetensors format")
    return length


def weights_of(header: bytes | Mapping[str, Any], file_bytes: int | None = None) -> Weights:
    """The weights in a safetensors file, from its header, as JSON text or parsed.

    file_bytes: the size of all files of the component, if the others are like this one

    Raises ValueError if the header is malformed.
    """
    try:
        content: Any = json.loads(header) if isinstance(header, bytes) else header
        tensors = [tensor for name, tensor in content.items() if name != "__metadata__"]
        sizes = [(tensor["dtype"], tensor["data_offsets"][1] - tensor["data_offsets"][0]) for tensor in tensors]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"its header is malformed: {error!r}") from None
    share = file_bytes / max(1, sum(size for _, size in sizes)) if file_bytes is not None else 1.0
    values = sum(size / STORED_BYTES[dtype] for dtype, size in sizes if dtype in STORED_BYTES)
    return Weights(values * share, sum(size for dtype, size in sizes if dtype not in STORED_BYTES) * share)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of each component's weights, as they are loaded. What a request computes comes on top."""

    components: Mapping[str, float]

    def on_device(self, offload: Offload) -> float:
        """Bytes on the device at one time. Groups and single layers are small."""
        sizes = self.components.values()
        return {"none": sum(sizes), "model": max(sizes, default=0.0)}.get(offload, 0.0)

    def problem(self, settings: LoadSettings, available: float) -> str | None:
        """Why the weights do not fit into `available` bytes, with the remedy; None if they fit."""
        need = self.on_device(settings.offload)
        if need <= available:
            return None
        smaller: tuple[Offload, ...] = ("model", "group")
        offloads = [one for one in smaller if self.on_device(one) <= available and one != settings.offload]
        remedies = [f"load.offload: {offloads[0]} (--offload {offloads[0]})"] if offloads else []
        remedies += ["load.quantization (--quantization)"] if not settings.quantization else []
        return (
            f"its weights need {need / GB:.1f} GB, and this device has {available / GB:.1f} GB: "
            f"set {' or '.join(remedies)}, or use a larger device"
        )


def memory_need(weights: Mapping[str, Weights], settings: LoadSettings, auto_dtype: str) -> MemoryNeed:
    """What the components take as `settings` load them. `auto_dtype`: what the dtype `auto` means on the device."""
    needs: dict[str, float] = {}
    for name, one in weights.items():
        dtype = settings.component_dtypes.get(name, settings.dtype)
        loaded = LOADED_BYTES[auto_dtype if dtype == "auto" else dtype]
        quantization = settings.quantization.get(name)
        if quantization is not None:
            loaded = min(loaded, _quantized_bits(quantization) / 8)
        needs[name] = one.values * loaded + one.other_bytes
    return MemoryNeed(needs)


def _quantized_bits(quantization: Quantization) -> int:
    """The bits of a quantized value, from the names of its format; a full byte if they do not say."""
    described = " ".join(map(str, [quantization.backend, quantization.type, *quantization.options.values()])).lower()
    if quantization.file is not None:
        found = re.search(r"q(\d)", quantization.file.rpartition("/")[2].lower())
        return int(found[1]) + 1 if found else 8  # blocks of values share scales
    return 4 if re.search(r"4bit|int4|uint4|nf4|fp4|nvfp4|mxfp4", described) else 8
