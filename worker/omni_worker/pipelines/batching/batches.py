"""No batch is trusted before it is proven.

That calls can be put together does not make the answer right: a dimension may be as long as the batch by accident,
frames may be folded into rows. So the first batch of a key is run together and alone, and the answers are compared;
where no plan gives the answers alone, the key's calls run alone for ever. A batch size that is new is compared too, for
its lengths may coincide with others by chance, and so is a batch whose masks differ where they were equal before.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import TensorEquality, agree, write_count
from omni_worker.pipelines.batching.keys import BatchKey, KeyTable
from omni_worker.pipelines.batching.merging import (
    CannotMerge,
    MergeMode,
    MergePlan,
    candidate_plans,
    pad_to_common_length,
    run_merged,
)
from omni_worker.pipelines.batching.splitting import join_results, split_rows
from omni_worker.pipelines.batching.structure import is_finite, map_tensors

log = logging.getLogger(__name__)

COMPARED = (0.5, 1.0)  # where in a batch of a new size the calls stand that are run alone too, for comparison
FAILURES = 2
REMEMBERED = 4096

Pattern = tuple[bool, ...]


@dataclass(frozen=True)
class Batch:
    """Calls of one key, as the pipelines made them and as they are merged.

    pattern: whether sequences had to be evened out (their `lengths`), and which of the watched tensors are equal in all
    """

    key: BatchKey
    pattern: Pattern
    calls: Sequence[Call]
    together: Sequence[Call]
    lengths: Sequence[int]

    @property
    def is_uniform(self) -> bool:
        """Whether the calls are as like as they can be: nothing could be gained by taking fewer of them."""
        return not self.pattern[0] and all(self.pattern[1:])


@dataclass
class Verdict:
    """What is known of the calls of one key whose tensors are equal, or differ, in one pattern."""

    plan_of_size: dict[int, MergePlan] = field(default_factory=dict)
    failures: int = 0

    @property
    def is_refuted(self) -> bool:
        """Whether such calls run alone for ever."""
        return self.failures >= FAILURES or (self.failures > 0 and not self.plan_of_size)


class ProvenBatches:
    """Runs calls that share a key together where that is proven to be right, and alone where it is not.

    Where a replica has several `ranks`, each takes its part of the calls, or of the rows of a single one. Where there
    are `buckets`, the last call is repeated until there are as many as one of these.
    """

    def __init__(self, ranks: Ranks | None = None, buckets: Sequence[int] = ()) -> None:
        self.verdicts: dict[tuple[BatchKey, Pattern], Verdict] = {}
        self.batched_calls = 0
        self.single_calls = 0
        self.proofs = 0
        self._ranks = ranks or Ranks()
        self._buckets = buckets
        self._keys = KeyTable()
        self._same = TensorEquality()
        self._refuted: set[BatchKey] = set()
        self._watched: dict[BatchKey, frozenset[int]] = {}
        self._divisible: dict[BatchKey, bool] = {}

    def key_of(self, call: Call) -> BatchKey:
        """The call's key; one of its own where calls like it are known to run alone."""
        key = self._keys.of(call)
        return KeyTable.alone(call) if key in self._refuted else key

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answer of each of `calls`, in their order. Raises what the model raises."""
        if self._ranks.size == 1:
            return self._run(calls)
        if len(calls) < self._ranks.size and all(call.rows > 1 for call in calls):
            return [self._divided(call) for call in calls]
        shares = [self._ranks.share(len(calls), rank) for rank in range(self._ranks.size)]
        return self._on_ranks([calls[share.start : share.stop] for share in shares if share])

    @property
    def processes(self) -> int:
        """How many share the calls: the ranks."""
        return self._ranks.size

    @property
    def reasons(self) -> dict[str, str]:
        """Why calls of a model, by its name, run alone, or did once."""
        return self._keys.reasons

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

    def _run(self, calls: Sequence[Call]) -> list[Any]:
        if len(calls) == 1:
            return self._alone(calls)
        bucket = next((size for size in self._buckets if size >= len(calls)), len(calls))
        if bucket > len(calls):
            return self._run([*calls, *[calls[-1]] * (bucket - len(calls))])[: len(calls)]
        batch = self._batch(calls)
        verdict = self._verdict(batch)
        if verdict.is_refuted:
            return self._alone(calls) if batch.is_uniform else self._in_groups(batch)
        plan = verdict.plan_of_size.get(len(calls))
        if plan is None:
            return self._prove(batch, verdict)
        try:
            answers = run_merged(batch.together, plan, batch.lengths)
        except CannotMerge:
            return self._alone(calls)
        self.batched_calls += len(calls)
        return answers

    def _alone(self, calls: Sequence[Call]) -> list[Any]:
        self.single_calls += len(calls)
        return [call.run() for call in calls]

    # ---- ranks

    def _on_ranks(self, parts: Sequence[Sequence[Call]]) -> list[Any]:
        """A part for each rank. One that has to be proven first runs on all of them, so that all know the verdict."""
        answers: dict[int, list[Any]] = {}
        for number, part in enumerate(parts):
            if len(part) > 1 and not self._is_settled(part):
                answers[number] = self._shared(self._run(part))
        rest = [number for number in range(len(parts)) if number not in answers]
        told = self._ranks.spread([partial(_run_and_tell, self._run, parts[number]) for number in rest])
        for number, (own, randomness) in zip(rest, told, strict=True):
            for call, states in zip(parts[number], randomness, strict=True):
                call.restore_random_states(states)
            answers[number] = own
        return [answer for number in range(len(parts)) for answer in answers[number]]

    def _is_settled(self, calls: Sequence[Call]) -> bool:
        batch = self._batch(calls)
        verdict = self._verdict(batch)
        return len(calls) in verdict.plan_of_size or (verdict.is_refuted and batch.is_uniform)

    def _shared(self, answers: list[Any]) -> list[Any]:
        """The first rank's answers, to the bit, on all."""
        return list(self._ranks.spread([lambda: answers])[0])

    def _divided(self, call: Call) -> Any:
        """One call, its rows divided among the ranks where that is proven to be right."""
        key = self._keys.of(call)
        count = min(self._ranks.size, call.rows)
        if key in self._divisible and not self._divisible[key]:
            return self._on_ranks([[call]])[0]
        if key not in self._divisible:
            before, whole = call.random_states, call.copy().run()
            is_random = not _equal_states(before, call.random_states)
            self._divisible[key] = not is_random and _agrees(whole, partial(self._from_pieces, call.copy(), count))
            self.proofs += 1
            return self._shared([whole])[0]
        return self._from_pieces(call, count)

    def _from_pieces(self, call: Call, count: int) -> Any:
        self.single_calls += 1
        return join_results(self._ranks.spread([piece.run for piece in split_rows(call, count)]))

    # ---- what is known

    def _batch(self, calls: Sequence[Call]) -> Batch:
        together, lengths = pad_to_common_length(calls)
        key = self._keys.of(calls[0])
        return Batch(key, (bool(lengths), *self._pattern(key, together)), calls, together, lengths)

    def _verdict(self, batch: Batch) -> Verdict:
        known = batch.key, batch.pattern
        verdict = self.verdicts.get(known)
        if verdict is None:
            verdict = self.verdicts[known] = Verdict()
            if len(self.verdicts) > REMEMBERED:
                del self.verdicts[next(iter(self.verdicts))]
        return verdict

    def _pattern(self, key: BatchKey, calls: Sequence[Call]) -> Pattern:
        """Of each tensor that is no plain row of the batch, is a mask, or is watched: whether it is the same in all."""
        first, others, watched = calls[0], calls[1:], self._watched.get(key, frozenset())
        return tuple(
            all(self._same(leaf.value, other.leaves[i].value) for other in others)
            for i, leaf in enumerate(first.leaves)
            if i in watched or (leaf.value.dim() and (leaf.value.shape[0] != first.rows or leaf.is_mask))
        )

    def _in_groups(self, batch: Batch) -> list[Any]:
        """Runs together those that are known, or not yet known, to share a batch, where all of them cannot."""
        groups: list[list[int]] = []
        for i, call in enumerate(batch.calls):
            for group in groups:
                if not self._verdict(self._batch([batch.calls[group[0]], call])).is_refuted:
                    group.append(i)
                    break
            else:
                groups.append([i])
        if len(groups) == 1:
            return self._alone(batch.calls)
        answers: dict[int, Any] = {}
        for group in groups:
            answers.update(zip(group, self._run([batch.calls[i] for i in group]), strict=True))
        return [answers[i] for i in range(len(batch.calls))]

    # ---- proofs

    def _prove(self, batch: Batch, verdict: Verdict) -> list[Any]:
        """Run the calls together and alone, compare, and remember. The answers are right, whatever comes out."""
        self.proofs += 1
        calls = batch.calls
        compared = set(range(len(calls)))
        if verdict.plan_of_size and len(calls) > len(COMPARED):
            compared = {int(place * (len(calls) - 1)) for place in COMPARED}
        before, versions = [call.random_states for call in calls], [_versions(call) for call in calls]
        alone = {i: calls[i].copy().run() for i in sorted(compared)}
        after = [call.random_states for call in calls]
        self.single_calls += len(alone)
        if not all(map(is_finite, alone.values())):  # a poisoned request proves nothing about the others
            return self._rest_alone(calls, alone)
        answers = None
        if not all(map(_equal_states, before, after)):
            reason = "it draws random numbers"
        elif versions != [_versions(call) for call in calls]:
            reason = "it writes into its arguments"
        else:
            reason = f"{len(calls)} calls give another answer together than alone"
            answers = self._first_right(batch, verdict, alone)
        for call, state in zip(calls, after, strict=True):
            _restore_randomness(call, state)
        if answers is None:
            verdict.failures += 1
            self._keys.reasons[batch.key.model] = reason
            log.warning("calls of %s run alone: %s", batch.key.model, reason)
            if verdict.is_refuted and batch.is_uniform:
                self._refuted.add(batch.key)
            return self._rest_alone(calls, alone)
        self.batched_calls += len(calls)
        return [alone.get(i, answer) for i, answer in enumerate(answers)]

    def _first_right(self, batch: Batch, verdict: Verdict, alone: dict[int, Any]) -> list[Any] | None:
        """The answers by the first plan that gives those alone, which is remembered for this size."""
        together = batch.together
        equal = [
            all(self._same(leaf.value, other.leaves[i].value) for other in together[1:])
            for i, leaf in enumerate(together[0].leaves)
        ]
        right: tuple[MergePlan, list[Any]] | None = None
        for plan in dict.fromkeys([*reversed(verdict.plan_of_size.values()), *candidate_plans(together, equal)]):
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

    def _remember(self, batch: Batch, plan: MergePlan, watched: frozenset[int]) -> None:
        if watched:
            self._watched[batch.key] = self._watched.get(batch.key, frozenset()) | watched
            batch = replace(batch, pattern=(batch.pattern[0], *self._pattern(batch.key, batch.together)))
        self._verdict(batch).plan_of_size[len(batch.together)] = plan

    def _rest_alone(self, calls: Sequence[Call], known: dict[int, Any]) -> list[Any]:
        self.single_calls += len(calls) - len(known)
        return [known[i] if i in known else call.run() for i, call in enumerate(calls)]


def _tried(calls: Sequence[Call], plan: MergePlan, lengths: Sequence[int] = ()) -> list[Any] | None:
    try:
        return run_merged(calls, plan, lengths)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model says to a batch that it cannot take
        log.debug("%s cannot run %d calls by %s: %s", calls[0].model, len(calls), plan, error)
        return None


def _agrees(expected: Any, run: Callable[[], Any]) -> bool:
    try:
        return agree(expected, run())
    except Exception as error:  # whatever a model says to a part of a call
        log.debug("a call cannot be divided: %s", error)
        return False


def _holds_when_stirred(calls: Sequence[Call], plan: MergePlan) -> bool:
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


def _stirred(call: Call, plan: MergePlan, number: int, count: int) -> Call:
    leaves = iter(zip(call.leaves, plan.treatments, strict=True))

    def stir(value: Tensor) -> Tensor:
        leaf, treatment = next(leaves)
        if treatment is MergeMode.SHARE or leaf.is_mask or number == 0:
            return value
        if value.dim() > 1:
            return value.roll(number, -1)
        return (value * (1.0 - 0.7 * number / count)).to(value.dtype)

    return replace(call, args=map_tensors(call.args, stir), kwargs=map_tensors(call.kwargs, stir))


def _run_and_tell(
    run: Callable[[Sequence[Call]], list[Any]], calls: Sequence[Call]
) -> tuple[list[Any], list[list[Tensor]]]:
    """The answers, and how they left the calls' random generators: other ranks have to know."""
    return run(calls), [call.random_states for call in calls]


def _versions(call: Call) -> list[int]:
    return [write_count(leaf.value) for leaf in call.leaves]


def _randomness(call: Call) -> list[Tensor]:
    return [call.context.random_state, *(generator.get_state() for generator in call.generators)]


def _restore_randomness(call: Call, states: list[Tensor]) -> None:
    own, *others = [state.clone() for state in states]  # torch reads a state from the start of its storage
    call.context.random_state = own
    for generator, state in zip(call.generators, others, strict=True):
        generator.set_state(state)


def _equal_states(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))
