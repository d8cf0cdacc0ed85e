"""The LoRA adapters of a stage: what the head wants its replicas to hold, and what each replica reports that it holds.

The head sends its whole wish, and the replica its whole state, so that a lost message is made up for by the next one.
A head that restarts learns what was added at run time from its replicas.
"""

from typing import Annotated, Literal

import msgspec

from omni_worker.config.lora_source import LoraSource

Origin = Literal["flag", "spec", "api"]
"""Who asked for an adapter: the command line of the replica itself, the manifest, or a client at run time."""
Phase = Literal["loading", "loaded", "unloading", "full", "failed"]
"""`full`: there is no room for it. The replica tries a failed one again after a while, or when it is asked again."""
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class WantedLora(msgspec.Struct, frozen=True):
    """An adapter that replicas must hold. `attempt` grows when a client asks for it again, after a failure."""

    source: LoraSource
    origin: Origin
    attempt: Number = 0


class WantedLoras(msgspec.Struct, frozen=True, tag="loras"):
    """All adapters that a replica must hold, besides those of its own command line.

    head: the incarnation of the head that made this list
    version: grows with every change of the list
    max_bytes: that the files of all adapters may have together
    """

    head: str
    version: Number
    loras: tuple[WantedLora, ...]
    max_bytes: Number


class LoraState(msgspec.Struct, frozen=True):
    """An adapter at a replica. `size` is that of its file in bytes, 0 until known; `reason` is why it failed."""

    source: LoraSource
    origin: Origin
    phase: Phase
    size: Number = 0
    reason: str | None = None
    attempt: Number = 0


class HeldLoras(msgspec.Struct, frozen=True):
    """The adapters of a replica, and the list of the head by which it goes: none before the first."""

    head: str = ""
    version: Number = 0
    loras: tuple[LoraState, ...] = ()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names of the adapters that requests can select."""
        return tuple(lora.source.name for lora in self.loras if lora.phase == "loaded")
