"""The key of a model call, which says with which other calls it can share a batch."""

from collections.abc import Hashable
from typing import NamedTuple

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.structure import OpaqueValue
from omni_worker.pipelines.components import ENCODE

ALONE = "alone"
MAX_KEYS = 4096


class BatchKey(NamedTuple):
    """Calls with equal keys can go into one batch.

    variant: a number for the call's signature; for a call that can share no batch, the id of its request
    index_in_step: which call of the model in its request's step it is, from 0. Calls with and without the prompt could
        share a batch, but every request makes them one after the other. With separate keys the requests fall into step
        with each other, and the batches have equal sizes
    calls_at_once: how many calls of the step run together, speculative ones included
    """

    phase: str
    model: str
    variant: int | str
    index_in_step: int = 0
    calls_at_once: int = 1

    @property
    def labels(self) -> tuple[str, str, str]:
        """The key's name in reports and metrics: phase, model and variant. The variant of a call that can share no
        batch is `ALONE`."""
        return self.phase, self.model, ALONE if isinstance(self.variant, str) else str(self.variant)


class KeyTable:
    """Gives equal keys to calls with equal signatures. Keys are cheap to compare and to send to other processes.

    reasons: why calls of a model, by its name, share no batch
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._variants: dict[Hashable, int] = {}
        self._next_variant = 0

    def of(self, call: Call) -> BatchKey:
        """The key of a call; one that no other call has if the call can share no batch."""
        # Image encoders are called only once, and the steps after them may magnify any rounding.
        encodes_image = call.phase == ENCODE and "input_ids" not in call.kwargs
        if encodes_image or call.changes is None or not call.context.can_share_batch:
            if call.context.asks_for_exact_bits:
                pass  # that says nothing of the model
            elif call.context.needs_exact_bits:
                self.reasons[call.model] = "the timestep scheduler magnifies rounding"
            elif not encodes_image:
                self.reasons[call.model] = "requests turn gradients on in it, or set hooks, processors or attributes"
            return self.alone(call)
        try:
            signature = call.signature
        except OpaqueValue as opaque:
            self.reasons[call.model] = f"nothing is known of an argument: {opaque}"
            return self.alone(call)
        variant = self._variants.get(signature)
        if variant is None:
            variant = self._variants[signature] = self._next_variant
            self._next_variant += 1
            if len(self._variants) > MAX_KEYS:
                del self._variants[next(iter(self._variants))]
        return BatchKey(call.phase, call.model, variant)

    @staticmethod
    def alone(call: Call) -> BatchKey:
        """The key of a call that can share no batch."""
        return BatchKey(call.phase, call.model, call.context.request_id)
