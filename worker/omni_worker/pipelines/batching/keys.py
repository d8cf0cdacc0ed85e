"""The key of a model call, which says with which other calls it can share a batch."""

from collections.abc import Hashable
from typing import NamedTuple

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import Opaque
from omni_worker.pipelines.components import ENCODE

ALONE = "alone"
KEYS_KEPT = 4096


class BatchKey(NamedTuple):
    """Calls of equal keys may go into one batch.

    variant: numbers what a model was called with so far; a call that goes into no batch has the id of its request there
    turn: which call of the model in its request's step it is. Those with and those without the prompt could share a
        batch, but every request makes one after the other: kept apart, requests fall into step, and batches are even
    calls: how many calls of its step are made at once, with those that are foreseen
    """

    phase: str
    model: str
    variant: int | str
    turn: int = 0
    calls: int = 1

    @property
    def labels(self) -> tuple[str, str, str]:
        """The key's name in reports and metrics: phase, model, and the variant, or `ALONE` for a call of no batch."""
        return self.phase, self.model, ALONE if isinstance(self.variant, str) else str(self.variant)


class KeyTable:
    """Gives equal keys to calls of equal signatures. Comparing keys is cheap then, wherever they go.

    reasons: why calls of a model, by its name, got a key of their own
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._variants: dict[Hashable, int] = {}
        self._made = 0

    def of(self, call: Call) -> BatchKey:
        """The call's key."""
        # Encoders of images are called once, and what follows may magnify any rounding.
        encodes_image = call.phase == ENCODE and "input_ids" not in call.kwargs
        if encodes_image or not call.may_share or not call.context.may_share:
            if call.context.needs_every_bit:
                self.reasons[call.model] = "the timestep scheduler magnifies rounding"
            elif not encodes_image:
                self.reasons[call.model] = "requests turn gradients on in it, or set hooks, processors or attributes"
            return self.alone(call)
        try:
            signature = call.signature
        except Opaque as opaque:
            self.reasons[call.model] = f"nothing is known of an argument: {opaque}"
            return self.alone(call)
        variant = self._variants.get(signature)
        if variant is None:
            variant = self._variants[signature] = self._made
            self._made += 1
            if len(self._variants) > KEYS_KEPT:
                del self._variants[next(iter(self._variants))]
        return BatchKey(call.phase, call.model, variant)

    @staticmethod
    def alone(call: Call) -> BatchKey:
        """The key of a call that no other may join."""
        return BatchKey(call.phase, call.model, call.context.request_id)
