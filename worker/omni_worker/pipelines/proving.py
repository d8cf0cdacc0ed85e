"""No batch is trusted before it is proven.

That calls can be put together does not make the answer right: a dimension may be as long as the batch by accident,
frames may be folded into rows. So the first batch of a key is run together and alone, and the answers are compared;
where no plan gives the answers alone, the key's calls run alone for ever. A batch size that is new is compared too, for
its lengths may coincide with others by chance, and so is a batch whose masks differ where they were equal before.
"""

import logging
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from omni_worker.pipelines.calls import Call, Key, Keys
from omni_worker.pipelines.merging import CannotMerge, Plan, Treatment, evened_out, plans, run_merged
from omni_worker.pipelines.structure import attributes, is_finite, mapped

log = logging.getLogger(__name__)

# Relative difference (root mean square) that a batched answer may have from the answer alone, by precision.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}
COMPARED_ALONE = 3
FAILURES = 2
REMEMBERED = 4096

Pattern = tuple[bool, ...]


@dataclass
class Verdict:
    """What is known of the calls of one key whose tensors are equal, or differ, in one pattern."""

    plan_of_size: dict[int, Plan] = field(default_factory=dict)
    failures: int = 0

    @property
    def is_refuted(self) -> bool:
        """Whether such calls run alone for ever."""
        return self.failures >= FAILURES or (self.failures > 0 and not self.plan_of_size)


class ProvenBatches:
    """Runs calls that share a key together where that is proven to be right, and alone where it is not."""

    def __init__(self) -> None:
        self.verdicts: dict[tuple[Key, Pattern], Verdict] = {}
        self.batched_calls = 0
        self.single_calls = 0
        self.proofs = 0
        self._keys = Keys()
        self._same = SameTensors()
        self._refuted: set[Key] = set()
        self._watched: dict[Key, frozenset[int]] = {}

    def key_of(self, call: Call) -> Key:
        """The call's key; one of its own where calls like it are known to run alone."""
        key = self._keys.of(call)
        return Keys.alone(call) if key in self._refuted else key

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answer of each of `calls`, in their order. Raises what the model raises."""
        if len(calls) == 1:
            return self._alone(calls)
        together, lengths = evened_out(calls)
        key = self._keys.of(calls[0])
        pattern = (bool(lengths), *self._pattern(key, together))
        verdict = self._verdict(key, pattern)
        if verdict.is_refuted:
            return self._alone(calls) if _is_uniform(pattern) else self._in_groups(key, calls)
        plan = verdict.plan_of_size.get(len(calls))
        if plan is None:
            return self._prove(Batch(key, pattern, calls, together, lengths), verdict)
        try:
            answers = run_merged(together, plan, lengths)
        except CannotMerge:
            return self._alone(calls)
        self.batched_calls += len(calls)
        return answers

    def stats(self) -> dict[str, int]:
        """Counters for metrics: calls that ran together and alone, keys whose calls may and may not share a batch."""
        refuted = sum(verdict.is_refuted for verdict in self.verdicts.values())
        return {
            "batched_calls": self.batched_calls,
            "single_calls": self.single_calls,
            "proofs": self.proofs,
            "keys_batched": len(self.verdicts) - refuted,
            "keys_alone": refuted,
        }

    def _alone(self, calls: Sequence[Call]) -> list[Any]:
        self.single_calls += len(calls)
        return [call.run() for call in calls]

    def _verdict(self, key: Key, pattern: Pattern) -> Verdict:
        verdict = self.verdicts.get((key, pattern))
        if verdict is None:
            verdict = self.verdicts[key, pattern] = Verdict()
            if len(self.verdicts) > REMEMBERED:
                del self.verdicts[next(iter(self.verdicts))]
        return verdict

    def _pattern(self, key: Key, calls: Sequence[Call]) -> Pattern:
        """Of each tensor that is no plain row of the batch, is a mask, or is watched: whether it is the same in all."""
        first, others, watched = calls[0], calls[1:], self._watched.get(key, frozenset())
        return tuple(
            all(self._same(leaf.value, other.leaves[i].value) for other in others)
            for i, leaf in enumerate(first.leaves)
            if i in watched or (leaf.value.dim() and (leaf.value.shape[0] != first.rows or leaf.is_mask))
        )

    def _in_groups(self, key: Key, calls: Sequence[Call]) -> list[Any]:
        """Runs together those that are known, or not yet known, to share a batch, where all of them cannot."""
        groups: list[list[int]] = []
        for i, call in enumerate(calls):
            for group in groups:
                if self._may_pair(key, calls[group[0]], call):
                    group.append(i)
                    break
            else:
                groups.append([i])
        if len(groups) == 1:
            return self._alone(calls)
        answers: dict[int, Any] = {}
        for group in groups:
            answers.update(zip(group, self.run([calls[i] for i in group]), strict=True))
        return [answers[i] for i in range(len(calls))]

    def _may_pair(self, key: Key, one: Call, other: Call) -> bool:
        together, lengths = evened_out([one, other])
        known = self.verdicts.get((key, (bool(lengths), *self._pattern(key, together))))
        return known is None or not known.is_refuted

    def _prove(self, batch: "Batch", verdict: Verdict) -> list[Any]:
        """Run the calls together and alone, compare, and remember. The answers are right, whatever comes out."""
        self.proofs += 1
        calls = batch.calls
        compared = set(range(len(calls)))
        if verdict.plan_of_size and len(calls) > COMPARED_ALONE:
            compared = {0, len(calls) // 2, len(calls) - 1}
        before, versions = [_randomness(call) for call in calls], [_versions(call) for call in calls]
        alone = {i: calls[i].copy().run() for i in sorted(compared)}
        after = [_randomness(call) for call in calls]
        self.single_calls += len(alone)
        if not all(map(is_finite, alone.values())):  # a poisoned request proves nothing about the others
            return self._rest_alone(calls, alone)
        answers = None
        # A model that draws random numbers has to draw its own, and one that writes into its arguments has to see them.
        if all(map(_equal_states, before, after)) and versions == [_versions(call) for call in calls]:
            answers = self._first_right(batch, verdict, alone)
        for call, state in zip(calls, after, strict=True):
            _restore_randomness(call, state)
        if answers is None:
            verdict.failures += 1
            log.warning("%s: %d calls give another answer together than alone", batch.key.model, len(calls))
            if verdict.is_refuted and _is_uniform(batch.pattern):
                self._refuted.add(batch.key)
            return self._rest_alone(calls, alone)
        self.batched_calls += len(calls)
        return [alone.get(i, answer) for i, answer in enumerate(answers)]

    def _first_right(self, batch: "Batch", verdict: Verdict, alone: dict[int, Any]) -> list[Any] | None:
        """The answers by the first plan that gives those alone, which is remembered for this size."""
        together = batch.together
        equal = [
            all(self._same(leaf.value, other.leaves[i].value) for other in together[1:])
            for i, leaf in enumerate(together[0].leaves)
        ]
        right: tuple[Plan, list[Any]] | None = None
        for plan in dict.fromkeys([*reversed(verdict.plan_of_size.values()), *plans(together, equal)]):
            answers = _tried(together, plan, batch.lengths)
            if answers is None or not all(agree(answer, answers[i]) for i, answer in alone.items()):
                continue
            if verdict.plan_of_size or _holds_when_stirred(together, plan):
                self._remember(batch, plan, frozenset(plan.shared_rows(together[0])))
                return answers
            right = right or (plan, answers)
        if right is None:
            return None
        # Right as these calls are, but not whatever they hold: from now on all their tensors are watched.
        self._remember(batch, right[0], frozenset(range(len(together[0].leaves))))
        return right[1]

    def _remember(self, batch: "Batch", plan: Plan, watched: frozenset[int]) -> None:
        if watched:
            self._watched[batch.key] = self._watched.get(batch.key, frozenset()) | watched
        pattern = (batch.pattern[0], *self._pattern(batch.key, batch.together))
        self._verdict(batch.key, pattern).plan_of_size[len(batch.together)] = plan

    def _rest_alone(self, calls: Sequence[Call], known: dict[int, Any]) -> list[Any]:
        self.single_calls += len(calls) - len(known)
        return [known[i] if i in known else call.run() for i, call in enumerate(calls)]


@dataclass(frozen=True)
class Batch:
    """Calls to be proven: as the pipelines made them, and as they are merged."""

    key: Key
    pattern: Pattern
    calls: Sequence[Call]
    together: Sequence[Call]
    lengths: Sequence[int]


def _tried(calls: Sequence[Call], plan: Plan, lengths: Sequence[int] = ()) -> list[Any] | None:
    try:
        return run_merged(calls, plan, lengths)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model says to a batch that it cannot take
        log.debug("%s cannot run %d calls by %s: %s", calls[0].model, len(calls), plan, error)
        return None


def _holds_when_stirred(calls: Sequence[Call], plan: Plan) -> bool:
    """Whether a plan that is right for `calls` is right too when they differ in all that they do not share.

    In the first step of a loop all requests may have the same timestep, which hides a model that takes the first one's
    for all. So everything that is a call's own is changed, in each call by another amount, and compared once more.
    """
    stirred = [_stirred(call, plan, i, len(calls)) for i, call in enumerate(calls)]
    try:
        alone = [call.copy().run() for call in stirred]
    except Exception as error:  # a model need not bear it: then nothing is known
        log.debug("%s cannot be stirred: %s", calls[0].model, error)
        return False
    answers = _tried(stirred, plan)
    return answers is not None and all(map(agree, alone, answers))


def _stirred(call: Call, plan: Plan, number: int, count: int) -> Call:
    leaves = iter(zip(call.leaves, plan.treatments, strict=True))

    def stir(value: Tensor) -> Tensor:
        leaf, treatment = next(leaves)
        if treatment is Treatment.SHARE or leaf.is_mask or number == 0:
            return value
        if value.dim() > 1:
            return value.roll(number, -1)
        return (value * (1.0 - 0.7 * number / count)).to(value.dtype)

    return replace(call, args=mapped(call.args, stir), kwargs=mapped(call.kwargs, stir))


def _is_uniform(pattern: Pattern) -> bool:
    """Whether no sequence was evened out, and every watched tensor is the same in all calls."""
    return not pattern[0] and all(pattern[1:])


def _randomness(call: Call) -> list[Tensor]:
    return [call.context.random_state, *(generator.get_state() for generator in call.generators)]


def _versions(call: Call) -> list[int]:
    return [_version(leaf.value) for leaf in call.leaves]


def _restore_randomness(call: Call, states: list[Tensor]) -> None:
    call.context.random_state = states[0]
    for generator, state in zip(call.generators, states[1:], strict=True):
        generator.set_state(state)


def _equal_states(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def agree(one: Any, other: Any) -> bool:
    """Whether two answers are the same but for rounding."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return _tensors_agree(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(agree(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(agree, one, other))
    if (fields := attributes(one)) is not None:
        return all(name in vars(other) and agree(value, vars(other)[name]) for name, value in fields.items())
    return bool(one == other)


def _tensors_agree(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() and not one.is_complex():
        return bool(torch.equal(one, other))
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    error, size = (one - other).double().norm(), one.double().norm()
    return bool(error <= TOLERANCE.get(one.dtype, 0.0) * size) if torch.isfinite(size) else False


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class SameTensors:
    """Whether two tensors have the same contents: looked at once for each pair of objects, as long as they live."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[weakref.ref[Tensor], weakref.ref[Tensor], bool]] = {}

    def __call__(self, one: Tensor, other: Tensor) -> bool:
        if one is other:
            return True
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        pair = id(one), _version(one), id(other), _version(other)
        known = self._known.get(pair)
        if known is not None and known[0]() is one and known[1]() is other:
            return known[2]
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        result = bool(torch.equal(one, other))
        self._known[pair] = weakref.ref(one), weakref.ref(other), result
        return result
