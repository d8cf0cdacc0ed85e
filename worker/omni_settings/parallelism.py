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


WHOLE_CALL_CACHES = ("none", "skip")
"""The modes of `cache` that do not work inside a model."""


class Conflict(NamedTuple):
    """A setting of a stage that does not go with a way to divide calls: its path, and what is wrong with it."""

    path: str
    text: str

    @property
    def flag(self) -> str:
        """The flag of `omni serve` that sets it."""
        return f"--{self.path.rpartition('.')[2]}"


OFFLOAD = Conflict(
    "load.offload", "does not go with devices that compute together, which keep the model; set it to none"
)
COMPILE = Conflict("load.compile", "does not go with devices that compute together; remove it")
CACHE = Conflict(
    "cache", "works inside a model, which devices that compute together do not let it; set mode to skip or none"
)
ATTENTION = Conflict(
    "load.attention", f"cannot be divided over devices; remove it, or use one of {', '.join(DIVISIBLE_ATTENTION)}"
)


@dataclass(frozen=True)
class ModelParallelism:
    """The number of ranks among which one call of a denoiser is divided, in each way.

    ulysses: its sequences, which attention exchanges for heads
    """

    ulysses: int = 1

    @property
    def ranks(self) -> int:
        """How many ranks compute one call."""
        return self.ulysses

    def conflicts(self, load: LoadSettings, cache_mode: str = "none") -> Iterator[Conflict]:
        """The settings of a stage with which its model cannot be divided so."""
        if self.ranks > 1 and load.offload != "none":
            yield OFFLOAD
        if self.ranks > 1 and load.compile is not None:
            yield COMPILE
        if self.ranks > 1 and cache_mode not in WHOLE_CALL_CACHES:
            yield CACHE
        if self.ulysses > 1 and load.attention not in (None, *DIVISIBLE_ATTENTION):
            yield ATTENTION


UNDIVIDED = ModelParallelism()
