"""What a replica tells of its batches: counts by phase and model, and what was found of each kind of call.

The scheduler treats keys as opaque; here they are given names. Their number is bounded, whatever clients ask for: the
kinds of call that ran most have a name of their own, and the others of a phase and model share one.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from omni_worker.engine.runner.autoregressive import KEY as TOKENS
from omni_worker.engine.scheduler import KeyStats
from omni_worker.pipelines.batching.keys import ALONE, BatchKey

KEYS_NAMED = 16
OTHERS = "others"
UNKNOWN = "unknown"
LANGUAGE_MODEL = "language-model"


class KeyName(NamedTuple):
    """The labels of a kind of call. `variant` numbers the shapes of a model's calls, or says that none may join it."""

    phase: str
    model: str
    variant: str


class BatchCounts(NamedTuple):
    """What batches of some kind add up to."""

    batches: int
    calls: int
    seconds: float

    def plus(self, now: "BatchCounts", seen: "BatchCounts") -> "BatchCounts":
        """These, and what has come since `seen`."""
        return BatchCounts(
            self.batches + now.batches - seen.batches,
            self.calls + now.calls - seen.calls,
            self.seconds + now.seconds - seen.seconds,
        )


NOTHING = BatchCounts(0, 0, 0.0)


def name_of(key: Hashable) -> KeyName:
    """The key's name: that of a pipeline's call; or that of a language model's calls, which all go together."""
    if isinstance(key, BatchKey):
        return KeyName(*key.labels)
    if key == TOKENS:
        return KeyName(TOKENS, LANGUAGE_MODEL, "0")
    return KeyName(UNKNOWN, UNKNOWN, OTHERS)


class BatchReport:
    """Adds up what the scheduler counts for each key, and so outlives keys that the scheduler forgets."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, BatchCounts] = {}
        self._counts: dict[tuple[str, str], BatchCounts] = {}

    def of(self, keys: Sequence[KeyStats]) -> dict[str, Any]:
        """What to tell now, as JSON: `batch_counts` has phase, model, batches, calls, seconds; `batch_sizes` has phase,
        model, variant, limit, a, b (both None while not known)."""
        for one in keys:
            seen, now = self._seen.get(one.key, NOTHING), BatchCounts(one.batches, one.calls, one.seconds)
            if now.batches < seen.batches:  # it had been forgotten meanwhile
                seen = NOTHING
            name = name_of(one.key)[:2]
            before = self._counts.get(name, NOTHING)
            self._counts[name] = before.plus(now, seen)
        self._seen = {one.key: BatchCounts(one.batches, one.calls, one.seconds) for one in keys}
        return {
            "batch_counts": [[*name, *counts] for name, counts in self._counts.items()],
            "batch_sizes": [[*name, *_merged(group)] for name, group in _grouped(keys).items()],
        }


def _grouped(keys: Sequence[KeyStats]) -> dict[KeyName, list[KeyStats]]:
    groups: dict[KeyName, list[KeyStats]] = defaultdict(list)
    named = 0
    for one in sorted(keys, key=lambda one: -one.calls):
        name = name_of(one.key)
        if name.variant not in (ALONE, OTHERS):
            named += 1
            name = name if named <= KEYS_NAMED else name._replace(variant=OTHERS)
        groups[name].append(one)
    return groups


def _merged(group: Sequence[KeyStats]) -> tuple[float, float | None, float | None]:
    """Limit, a and b: the mean over a group's calls."""
    limit = _mean([(one.limit, one.calls) for one in group])
    assert limit is not None
    lines = [(one.line, one.calls) for one in group if one.line is not None]
    return limit, _mean([(line[0], calls) for line, calls in lines]), _mean([(line[1], calls) for line, calls in lines])


def _mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else None
