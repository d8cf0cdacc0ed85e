"""Foresees the next calls of a request's step, so that they need not wait for the first.

Guidance without a doubled batch calls the model twice a step, with the prompt and without; the pipeline's own code
makes the second call when it has the answer to the first. What that call will be is nearly always known: the one of the
step before, with the latents and the timestep of this one. So it is run together with the first, and when the pipeline
makes it, and it is the same in every argument, its answer is there. One that comes otherwise is run as if nothing had
been foreseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import SameTensors
from omni_worker.pipelines.batching.keys import BatchKey
from omni_worker.pipelines.batching.structure import mapped

WORTH_OF_A_MISS = 8  # hits that make up for it
PATIENCE = 2 * WORTH_OF_A_MISS
REMEMBERED = 4096


class Made(NamedTuple):
    """A call that the pipeline made, and its key."""

    call: Call
    key: BatchKey


class Answers(NamedTuple):
    """The answer to a call, and those to the calls of its step that were foreseen, in their order."""

    first: Any
    others: list[Any]


@dataclass
class Record:
    """How well the calls of each key were foreseen. All requests share it, so that what fails is not tried for ever."""

    scores: dict[BatchKey, int] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0

    def may_try(self, key: BatchKey) -> bool:
        """Whether it is likely to pay."""
        return self.scores.get(key, 0) > -PATIENCE

    def hit(self, key: BatchKey) -> None:
        """A call came as it was foreseen."""
        self.hits += 1
        self._keep(key, min(PATIENCE, self.scores.get(key, 0) + 1))

    def miss(self, key: BatchKey) -> None:
        """One came otherwise, or not at all."""
        self.misses += 1
        self._keep(key, self.scores.get(key, 0) - WORTH_OF_A_MISS)

    def give_up(self, key: BatchKey) -> None:
        """Calls of this key cannot be run before they are made."""
        self._keep(key, -2 * PATIENCE)

    def _keep(self, key: BatchKey, score: int) -> None:
        self.scores[key] = score
        if len(self.scores) > REMEMBERED:
            del self.scores[next(iter(self.scores))]


class Foresight:
    """The calls of one request, of this step and of the one before."""

    def __init__(self, same: SameTensors, record: Record) -> None:
        self._same = same
        self._record = record
        self._step = -1
        self._before: dict[str, list[Made]] = {}
        self._now: dict[str, list[Made]] = {}
        self._awaited: list[tuple[Call, Any]] = []
        self._key: BatchKey | None = None

    def made(self, call: Call, key: BatchKey, step: int) -> int:
        """The pipeline made a call in its step: which one of its model that is there, from 0 on."""
        if step != self._step:
            self._before, self._now, self._step = self._now, {}, step
        calls = self._now.setdefault(call.model, [])
        calls.append(Made(call, key))
        return len(calls) - 1

    def calls_after(self, call: Call, key: BatchKey) -> list[Call]:
        """The calls that will follow the first of a step, which was made just now, as far as they can be foreseen."""
        before = self._before.get(call.model, [])
        if len(before) < 2 or isinstance(key.variant, str) or not self._record.may_try(key):
            return []
        if any(one.key != key for one in before) or call.generators:
            return []
        return [self._foreseen(before[0].call, other.call, call) for other in before[1:]]

    def await_calls(self, key: BatchKey, calls: Sequence[Call], answers: Sequence[Any]) -> None:
        """These calls were run, and are yet to be made."""
        self._key, self._awaited = key, list(zip(calls, answers, strict=True))

    def answer_to(self, call: Call | None, key: BatchKey | None) -> tuple[bool, Any]:
        """Whether the answer to a call that was made is there already, and the answer. None: no further call was."""
        if not self._awaited:
            return False, None
        assert self._key is not None
        foreseen, answer = self._awaited.pop(0)
        if call is None or key != self._key or not self._equal(call, foreseen):
            self._awaited.clear()
            self._record.miss(self._key)
            return False, None
        self._record.hit(self._key)
        return True, answer

    def _foreseen(self, first: Call, other: Call, now: Call) -> Call:
        """What `other` was to `first`, to `now`: what both had in common it has from `now`, the rest is its own."""
        ours, theirs = _by_name(first), _by_name(now)
        places: dict[str, int] = {}

        def renewed(value: Tensor) -> Tensor:
            name = next(names)
            place = places[name] = places.get(name, -1) + 1
            if place < len(ours.get(name, ())) == len(theirs.get(name, ())) and self._same(value, ours[name][place]):
                return theirs[name][place]
            return value

        names = iter([leaf.name for leaf in other.leaves])
        return replace(other, args=mapped(other.args, renewed), kwargs=mapped(other.kwargs, renewed))

    def _equal(self, one: Call, other: Call) -> bool:
        """Whether two calls of equal keys have equal tensors."""
        return len(one.leaves) == len(other.leaves) and all(
            a.name == b.name and self._same(a.value, b.value) for a, b in zip(one.leaves, other.leaves, strict=True)
        )


def _by_name(call: Call) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for leaf in call.leaves:
        found.setdefault(leaf.name, []).append(leaf.value)
    return found
