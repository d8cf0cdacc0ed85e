"""How several devices compute one call of a model together: `spec.stages[].parallelism` and its flags."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from omni_settings.load import LoadSettings

DIVISIBLE_ATTENTION = (
    "_flash_3_hub", "_flash_3_varlen_hub", "_native_cudnn", "_native_flash", "_native_npu", "flash", "flash_hub",
    "flash_varlen_hub", "native", "sage", "sage_hub",
)  # fmt: skip
"""The attention backends of diffusers that can divide their work over devices."""


RING_ATTENTION = tuple(one for one in DIVISIBLE_ATTENTION if one not in ("_native_npu", "native"))
"""Those of them that also give the sums of their softmax, by which the results for parts of the keys are joined."""
TRANSFORMERS = ("transformer", "transformer_2")
"""The components whose weights `tensor` divides."""
WHOLE_CALL_CACHES = ("none", "skip")
"""The modes of `cache` that do not work inside a model."""


class Conflict(NamedTuple):
    """A setting of a stage that does not go with a way to divide calls: its path, and what is wrong with it."""

    path: str
    text: str

    @property
    def flag(self) -> str:
        """The flag of `omni serve` that sets it."""
        others = {"parallelism.ring": "--ring-degree", "parallelism": "--tensor-parallel-size", "loras": "--lora"}
        return others.get(self.path, f"--{self.path.rpartition('.')[2]}")


OFFLOAD = Conflict(
    "load.offload", "does not go with devices that compute together, which keep the model; set it to none"
)
COMPILE = Conflict("load.compile", "does not go with devices that compute together; remove it")
CACHE = Conflict(
    "cache", "works inside a model, which devices that compute together do not let it; set mode to skip or none"
)
QUANTIZATION = Conflict(
    "load.quantization", "keeps the weights of a transformer in a form that cannot be divided; remove it, or tensor"
)
LORAS = Conflict("loras", "do not go with divided weights; remove them, or parallelism.tensor")
EITHER = Conflict("parallelism", "divides calls in several ways; keep one of ulysses, ring and tensor")
RING = Conflict(
    "parallelism.ring",
    f"needs an attention kernel that joins parts of the keys; set load.attention to one of {', '.join(RING_ATTENTION)}",
)
ATTENTION = Conflict(
    "load.attention", f"cannot be divided over devices; remove it, or use one of {', '.join(DIVISIBLE_ATTENTION)}"
)


@dataclass(frozen=True)
class ModelParallelism:
    """The number of ranks among which one call of a denoiser is divided, in each way.

    ulysses: its sequences, which attention exchanges for heads
    ring: its sequences, of which each rank sees all keys and values, one part after another
    tensor: its weights
    """

    ulysses: int = 1
    ring: int = 1
    tensor: int = 1

    @property
    def ranks(self) -> int:
        """How many ranks compute one call."""
        return self.ulysses * self.ring * self.tensor

    @property
    def divides_sequences(self) -> bool:
        """Whether ranks have parts of the sequences."""
        return self.ulysses * self.ring > 1

    @property
    def flags(self) -> str:
        """What divides calls, as flags and fields, for messages."""
        set_ones = {
            f"--ulysses-degree {self.ulysses} (parallelism.ulysses)": self.ulysses,
            f"--ring-degree {self.ring} (parallelism.ring)": self.ring,
            f"--tensor-parallel-size {self.tensor} (parallelism.tensor)": self.tensor,
        }
        return " and ".join(name for name, degree in set_ones.items() if degree > 1)

    def conflicts(self, load: LoadSettings, cache_mode: str = "none", has_loras: bool = False) -> Iterator[Conflict]:
        """The settings of a stage with which its model cannot be divided so."""
        if self.ranks > 1 and load.offload != "none":
            yield OFFLOAD
        if self.ranks > 1 and load.compile is not None:
            yield COMPILE
        if self.ranks > 1 and cache_mode not in WHOLE_CALL_CACHES:
            yield CACHE
        if self.ulysses > 1 and load.attention not in (None, *DIVISIBLE_ATTENTION):
            yield ATTENTION
        if self.ring > 1 and load.attention not in RING_ATTENTION:
            yield RING
        if sum(degree > 1 for degree in (self.ulysses, self.ring, self.tensor)) > 1:
            yield EITHER
        if self.tensor > 1 and not load.quantization.keys().isdisjoint(TRANSFORMERS):
            yield QUANTIZATION
        if self.tensor > 1 and has_loras:
            yield LORAS


UNDIVIDED = ModelParallelism()
