"""The batches that did not fit into the device's memory, so that no batch of that size is tried again."""

from collections.abc import Callable, Sequence

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.keys import BatchKey

MAX_LIMITS = 4096


class MemoryLimits:
    """What did not fit, by key: how many calls, of which size.

    A key fixes the shapes of its calls except where a collator pads them. So the limit is on the elements of all padded
    arguments together: calls with short prompts still share large batches after one with long prompts did not fit.
    """

    def __init__(self) -> None:
        self._too_large: dict[BatchKey, int] = {}

    def does_not_fit(self, key: BatchKey, calls: Sequence[Call]) -> None:
        """Remember that `calls` did not fit together."""
        self._too_large[key] = min(_elements(calls), self._too_large.get(key, 1 << 62))
        if len(self._too_large) > MAX_LIMITS:
            del self._too_large[next(iter(self._too_large))]

    def most_calls(self, calls: Sequence[Call], key_of: Callable[[Call], BatchKey]) -> int:
        """How many of `calls` to run together: all, or the largest half, quarter and so on that may fit."""
        size = len(calls)
        limit = self._too_large.get(key_of(calls[0])) if self._too_large else None
        while limit is not None and size > 1 and _elements(calls[:size]) >= limit:
            size //= 2
        return size


def _elements(calls: Sequence[Call]) -> int:
    """The elements of the arguments of a batch, in which every call is as large as the largest."""
    return len(calls) * max(sum(int(leaf.value.numel()) for leaf in call.leaves) for call in calls)
