"""A replica's report of its batches: counts by phase and model, and the measured costs of each kind of call.

Keys have labels that their runner gave them. The report has a bounded number of labels, whatever clients request: the
kinds of call that ran most often keep their own, and the others of a phase and model share one.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from omni_worker.engine.runner.interface import LabelledKey
from omni_worker.engine.scheduler import KeyStats

KEYS_NAMED = 16
OTHERS = "others"
UNKNOWN = "unknown"


class KeyName(NamedTuple):
    """The labels of a kind of call. `variant` numbers the shapes of a model's calls, or is a word for several."""

    phase: str
    model: str
    variant: str


class BatchCounts(NamedTuple):
    """Totals over batches."""

    batches: int
    calls: int
    seconds: float

    def plus(self, now: "BatchCounts", before: "BatchCounts") -> "BatchCounts":
        """These totals, plus the difference between `now` and `before`."""
        return BatchCounts(
            self.batches + now.batches - before.batches,
            self.calls + now.calls - before.calls,
            self.seconds + now.seconds - before.seconds,
        )


ZERO = BatchCounts(0, 0, 0.0)


def name_of(key: Hashable) -> KeyName:
    """The key's labels; `unknown` for a key that has none."""
    if isinstance(key, LabelledKey):
        return KeyName(*key.labels)
    return KeyName(UNKNOWN, UNKNOWN, OTHERS)


class BatchReport:
    """Accumulates the scheduler's counts. They include keys that the scheduler has since forgotten."""

    def __init__(self) -> None:
        self._last: dict[Hashable, BatchCounts] = {}
        self._totals: dict[tuple[str, str], BatchCounts] = {}

    def of(self, keys: Sequence[KeyStats]) -> dict[str, Any]:
        """The report as JSON.

        `batch_counts` has rows of phase, model, batches, calls and seconds. `batch_sizes` has rows of phase, model,
        variant, limit, a and b; a and b are None while unknown.
        """
        for stats in keys:
            before, now = self._last.get(stats.key, ZERO), BatchCounts(stats.batches, stats.calls, stats.seconds)
            if now.batches < before.batches:  # the scheduler forgot the key, and started to count again
                before = ZERO
            name = name_of(stats.key)[:2]
            self._totals[name] = self._totals.get(name, ZERO).plus(now, before)
        self._last = {stats.key: BatchCounts(stats.batches, stats.calls, stats.seconds) for stats in keys}
        return {
            "batch_counts": [[*name, *counts] for name, counts in self._totals.items()],
            "batch_sizes": [[*name, *_mean_costs(group)] for name, group in _grouped(keys).items()],
        }


def _grouped(keys: Sequence[KeyStats]) -> dict[KeyName, list[KeyStats]]:
    groups: dict[KeyName, list[KeyStats]] = defaultdict(list)
    numbered = 0
    for stats in sorted(keys, key=lambda stats: -stats.calls):
        name = name_of(stats.key)
        if name.variant.isdecimal():
            numbered += 1
            name = name if numbered <= KEYS_NAMED else name._replace(variant=OTHERS)
        groups[name].append(stats)
    return groups


def _mean_costs(group: Sequence[KeyStats]) -> tuple[float, float | None, float | None]:
    """Limit, a and b: the means over a group's calls."""
    limit = _mean([(stats.limit, stats.calls) for stats in group])
    assert limit is not None
    lines = [(stats.line, stats.calls) for stats in group if stats.line is not None]
    return limit, _mean([(line[0], calls) for line, calls in lines]), _mean([(line[1], calls) for line, calls in lines])


def _mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else None
