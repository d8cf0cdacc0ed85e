"""Predicts the later model calls of a request's step, so that they run together with the first one.

With guidance but without a doubled batch, a pipeline calls its model twice a step: with the prompt and without. Its
own code makes the second call only after it has the result of the first. The second call is nearly always predictable:
it is the second call of the previous step, with the latents and the timestep of this step. Such a speculative call runs
together with the first one. When the pipeline then makes a call that is equal in every argument, its result is already
there. Otherwise the result is dropped, and the call runs as if nothing had been speculated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import TensorEquality
from omni_worker.pipelines.batching.keys import BatchKey

MISS_PENALTY = 8  # a mistaken call costs as much as this many confirmed calls gain
SCORE_LIMIT = 2 * MISS_PENALTY
MAX_SCORES = 4096


class PastCall(NamedTuple):
    """A call that the pipeline made, and its key."""

    call: Call
    key: BatchKey


class SpeculatedResults(NamedTuple):
    """The result of a call, and the results of the speculative calls that ran with it, in their order."""

    result: Any
    speculated: list[Any]


@dataclass
class SpeculationScores:
    """How often the speculative calls of each key were right. All requests share it, so that hopeless keys are dropped.

    confirmed: speculative calls that the pipeline then made
    mistaken: speculative calls that the pipeline did not make
    """

    scores: dict[BatchKey, int] = field(default_factory=dict)
    confirmed: int = 0
    mistaken: int = 0

    def is_worthwhile(self, key: BatchKey) -> bool:
        """Whether speculation probably saves time for calls of this key."""
        return self.scores.get(key, 0) > -SCORE_LIMIT

    def confirm(self, key: BatchKey) -> None:
        """The pipeline made the speculative call."""
        self.confirmed += 1
        self._set(key, min(SCORE_LIMIT, self.scores.get(key, 0) + 1))

    def reject(self, key: BatchKey) -> None:
        """The pipeline made another call, or none."""
        self.mistaken += 1
        self._set(key, self.scores.get(key, 0) - MISS_PENALTY)

    def disable(self, key: BatchKey) -> None:
        """Calls of this key cannot run speculatively."""
        self._set(key, -2 * SCORE_LIMIT)

    def _set(self, key: BatchKey, score: int) -> None:
        self.scores[key] = score
        if len(self.scores) > MAX_SCORES:
            del self.scores[next(iter(self.scores))]


class Speculation:
    """The calls of one request in this step and in the previous one, and the speculative results not used yet."""

    def __init__(self, equality: TensorEquality, scores: SpeculationScores) -> None:
        self._equality = equality
        self._scores = scores
        self._step = -1
        self._previous_step: dict[str, list[PastCall]] = {}
        self._this_step: dict[str, list[PastCall]] = {}
        self._expected: list[tuple[Call, Any]] = []
        self._key: BatchKey | None = None

    def record_call(self, call: Call, key: BatchKey, step: int) -> int:
        """Record a call that the pipeline made in `step`. Returns its index among the model's calls of the step."""
        if step != self._step:
            self._previous_step, self._this_step, self._step = self._this_step, {}, step
        calls = self._this_step.setdefault(call.model, [])
        calls.append(PastCall(call, key))
        return len(calls) - 1

    def predict_calls(self, call: Call, key: BatchKey) -> list[Call]:
        """The calls that will probably follow the first call of a step; none if they cannot be predicted."""
        previous = self._previous_step.get(call.model, [])
        if len(previous) < 2 or isinstance(key.variant, str) or not self._scores.is_worthwhile(key):
            return []
        if any(past.key != key for past in previous) or call.generators:
            return []
        return [self._predict(previous[0].call, past.call, call) for past in previous[1:]]

    def expect_calls(self, key: BatchKey, calls: Sequence[Call], results: Sequence[Any]) -> None:
        """Keep the results of speculative calls until the pipeline makes these calls."""
        self._key, self._expected = key, list(zip(calls, results, strict=True))

    def take_result(self, call: Call | None, key: BatchKey | None) -> tuple[bool, Any]:
        """Whether a result is there for the call that the pipeline just made, and the result.

        `call` is None if the pipeline made no further call. The first call that differs drops all expected results.
        """
        if not self._expected:
            return False, None
        assert self._key is not None
        expected, result = self._expected.pop(0)
        if call is None or key != self._key or not self._equal(call, expected):
            self._expected.clear()
            self._scores.reject(self._key)
            return False, None
        self._scores.confirm(self._key)
        return True, result

    def _predict(self, first: Call, later: Call, now: Call) -> Call:
        """Predict the call that follows `now` as `later` followed `first` in the previous step.

        Tensors that `first` and `later` had in common are taken from `now`; the others stay as they were in `later`.
        All are copied: if the pipeline writes into a tensor before its call, the contents differ from the copy's.
        """
        first_tensors, now_tensors = _tensors_by_name(first), _tensors_by_name(now)
        counts: dict[str, int] = {}

        def update(value: Tensor) -> Tensor:
            name = next(names)
            i = counts[name] = counts.get(name, -1) + 1
            old, new = first_tensors.get(name, ()), now_tensors.get(name, ())
            taken = new[i] if i < len(old) == len(new) and self._equality(value, old[i]) else value
            return taken.clone()

        later = replace(later)  # the pipeline may have written to its arguments since
        names = iter([leaf.name for leaf in later.leaves])
        return later.map_tensors(update)

    def _equal(self, one: Call, other: Call) -> bool:
        """Whether two calls with equal keys have equal tensors."""
        return len(one.leaves) == len(other.leaves) and all(
            a.name == b.name and self._equality(a.value, b.value) for a, b in zip(one.leaves, other.leaves, strict=True)
        )


def _tensors_by_name(call: Call) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for leaf in call.leaves:
        found.setdefault(leaf.name, []).append(leaf.value)
    return found
