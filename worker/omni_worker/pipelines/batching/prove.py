"""Proves a batch: runs its calls together and alone, and compares the results.

That calls can be merged does not make the result right. A dimension can happen to have the length of the batch, or a
model can fold frames into rows. The functions here remember nothing; `verdicts` does.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omni_worker.device.out_of_memory import is_out_of_memory
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import TensorEquality, agree, write_count
from omni_worker.pipelines.batching.effects import Outcome
from omni_worker.pipelines.batching.merging import run_merged, trim_result
from omni_worker.pipelines.batching.plans import MergeMode, MergePlan, candidate_plans
from omni_worker.pipelines.batching.structure import is_finite
from omni_worker.pipelines.batching.verdicts import Batch

log = logging.getLogger(__name__)

COMPARED = (0.5, 1.0)  # which calls of a batch of a new size also run alone, as positions in the batch
LEAST_SCALE = 0.02  # the scale of the last call's timestep when calls are perturbed; the first call's is 1


@dataclass(frozen=True)
class Proof:
    """The outcome of a proof.

    plan: the first one that gives the same results as the calls alone; None if none does, or the proof is inconclusive
    outcomes: of all calls by the plan
    watched: the leaves that the plan relies on
    holds_perturbed: whether the plan is right for perturbed calls too, so that it says something of the model
    reason: why no plan is right; None if the proof is inconclusive
    """

    plan: MergePlan | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    watched: frozenset[int] = frozenset()
    holds_perturbed: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class AloneRun:
    """Some calls of a batch, run alone.

    outcomes: by the index of the call
    obstacle: what such calls do that rules out merging them, or None
    random_states: of each call of the batch, after the run
    """

    outcomes: dict[int, Outcome]
    obstacle: str | None
    random_states: list[list[Tensor]]


def sample(calls: Sequence[Call]) -> set[int]:
    """Calls that stand for a batch of a new size: one in the middle, and the last."""
    return {int(position * (len(calls) - 1)) for position in COMPARED}


def sample_of_shape(batch: Batch, equality: TensorEquality) -> set[int]:
    """Calls that stand for a batch of a new shape: the same, and one of each mask and length of sequences, which may
    lead the model to another path."""
    calls, lengths, last = batch.padded, batch.lengths, len(batch.padded) - 1
    masks = [leaf.is_mask for leaf in calls[0].leaves]

    def are_alike(one: int, other: int) -> bool:
        same_length = not lengths or lengths[one] == lengths[other]
        return same_length and _are_equal([calls[one], calls[other]], equality, masks)

    chosen = sample(calls)
    if lengths and lengths[last] != batch.padded_length:  # perturbed after padding, it shows nothing of the padding
        chosen.discard(last)
    for i in range(last):
        if not any(are_alike(i, other) for other in chosen):
            chosen.add(i)
    return {*chosen, last}


def run_alone(calls: Sequence[Call], chosen: Collection[int], earlier: AloneRun | None = None) -> AloneRun:
    """Run some calls alone. `earlier`: of the same calls, to be completed."""
    outcomes = dict(earlier.outcomes) if earlier is not None else {}
    before, contents = [call.random_states for call in calls], [_contents(call) for call in calls]
    outcomes.update({i: calls[i].compute() for i in sorted(chosen) if i not in outcomes})
    after = [call.random_states for call in calls]
    obstacle = earlier.obstacle if earlier is not None else None
    if not all(map(equal_states, before, after)):
        obstacle = "it draws random numbers"
    elif not all(map(_has_contents, calls, contents)):
        obstacle = "it writes into its arguments"
    return AloneRun(outcomes, obstacle, after)


def prove(batch: Batch, proven_plans: dict[int, MergePlan], alone: AloneRun, equality: TensorEquality) -> Proof:
    """Find the plan that gives the results of `alone`. `proven_plans`: of batches of other sizes."""
    if not all(map(is_finite, alone.outcomes.values())):  # a poisoned request proves nothing about the others
        return Proof()
    if alone.obstacle is not None:
        proof = Proof(reason=alone.obstacle)
    else:
        proof = _first_right_plan(batch, proven_plans, alone.outcomes, equality)
    _restore(batch, alone)
    return proof


def prove_again(batch: Batch, plans: Sequence[MergePlan], alone: AloneRun, equality: TensorEquality) -> Proof | None:
    """Find out whether one of `plans`, which hold for other calls of the model, holds for these of another shape.

    The last call joins the batch perturbed, while its own result is computed alone. So one run gives results that are
    needed anyway, compares them, and shows that each call keeps to its own timestep. None if no plan holds this time.
    """
    calls, last = batch.padded, len(batch.padded) - 1
    if alone.obstacle is not None or not all(map(is_finite, alone.outcomes.values())):
        return None
    if batch.lengths and batch.lengths[last] not in {batch.padded_length, *batch.lengths[:last]}:
        return None  # no call shows whether this one may be padded
    right: Proof | None = None
    for plan in plans:
        shared = [mode is MergeMode.SHARE for mode in plan.modes]
        if len(shared) != len(calls[0].leaves) or not _are_equal(calls, equality, shared):
            continue
        perturbed = _perturb(calls[last], plan, last, len(calls))
        results = _try_plan([*calls[:last], perturbed], plan, batch.lengths)
        if results is None or not agrees_with(results[last], partial(_run_trimmed, batch, perturbed)):
            continue
        if all(agree(result, results[i]) for i, result in alone.outcomes.items() if i != last):
            right = Proof(plan, results, frozenset(plan.shared_rows(calls[0])), holds_perturbed=True)
            break
    _restore(batch, alone)
    return right


def _run_trimmed(batch: Batch, last: Call) -> Outcome:
    """The outcome of a call that replaces the last one of a batch, alone and without padding."""
    outcome = last.compute()
    if not batch.lengths:
        return outcome
    trimmed = trim_result(outcome.result, last.collator, batch.lengths[-1], batch.padded_length)
    return outcome._replace(result=trimmed)


def _restore(batch: Batch, alone: AloneRun) -> None:
    """Leave the random generators as the calls alone left them."""
    for call, states in zip(batch.calls, alone.random_states, strict=True):
        call.restore_random_states(states)


def _are_equal(calls: Sequence[Call], equality: TensorEquality, in_leaves: Sequence[bool]) -> bool:
    """Whether all calls are equal in the leaves for which `in_leaves` is true."""
    return all(
        all(equality(leaf.value, other.leaves[i].value) for other in calls[1:])
        for i, leaf in enumerate(calls[0].leaves)
        if in_leaves[i]
    )


def _first_right_plan(
    batch: Batch, proven_plans: dict[int, MergePlan], alone: Mapping[int, Outcome], equality: TensorEquality
) -> Proof:
    calls = batch.padded
    equal = [
        all(equality(leaf.value, other.leaves[i].value) for other in calls[1:])
        for i, leaf in enumerate(calls[0].leaves)
    ]
    right: Proof | None = None
    for plan in dict.fromkeys([*reversed(proven_plans.values()), *candidate_plans(calls, equal)]):
        results = _try_plan(calls, plan, batch.lengths)
        if results is None or not all(agree(result, results[i]) for i, result in alone.items()):
            continue
        if proven_plans or _holds_when_perturbed(calls, plan):
            return Proof(plan, results, frozenset(plan.shared_rows(calls[0])), holds_perturbed=not proven_plans)
        # The plan is right for these calls, but not for any contents. So all their tensors are watched.
        right = right or Proof(plan, results, frozenset(range(len(calls[0].leaves))))
    return right or Proof(reason=f"{len(calls)} calls give another answer together than alone")


def agrees_with(expected: Any, run: Callable[[], Any]) -> bool:
    """Whether a part of a call can be run, and its result agrees with the expected one."""
    try:
        return agree(expected, run())
    except Exception as error:  # a model may raise anything for a part of a call
        log.debug("a call cannot be divided: %s", error)
        return False


def equal_states(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two lists of random states are equal."""
    return all(map(torch.equal, one, other))


def _try_plan(calls: Sequence[Call], plan: MergePlan, lengths: Sequence[int] = ()) -> list[Outcome] | None:
    try:
        return run_merged(calls, plan, lengths)
    except Exception as error:  # a model may raise anything for a batch that it cannot run
        if is_out_of_memory(error):
            raise
        log.debug("%s cannot run %d calls by %s: %s", calls[0].model, len(calls), plan, error)
        return None


def _holds_when_perturbed(calls: Sequence[Call], plan: MergePlan) -> bool:
    """Whether a plan that is right for `calls` stays right when they differ in everything that they do not share.

    In the first step of a loop, all requests may have the same timestep. That hides a model that uses the first
    request's timestep for all. So all tensors that are not shared are perturbed, in each call by another amount, and
    the results are compared again. The timesteps then lie between their own value and almost 0, where the loop ends, as
    a model may change its path at any of them.
    """
    perturbed = [_perturb(call, plan, i, len(calls)) for i, call in enumerate(calls)]
    try:
        alone = [call.compute() for call in perturbed]
    except Exception as error:  # the model does not accept such values, so nothing is known
        log.debug("%s cannot be stirred: %s", calls[0].model, error)
        return False
    results = _try_plan(perturbed, plan)
    return results is not None and all(map(agree, alone, results))


def _perturb(call: Call, plan: MergePlan, number: int, count: int) -> Call:
    leaves = iter(zip(call.leaves, plan.modes, strict=True))

    def perturb(value: Tensor) -> Tensor:
        leaf, mode = next(leaves)
        if mode is MergeMode.SHARE or leaf.is_mask or number == 0:
            return value
        if value.dim() > 1:
            return value.roll(number, -1)
        return (value * (1.0 - (1.0 - LEAST_SCALE) * number / (count - 1))).to(value.dtype)

    return call.map_tensors(perturb)


def _contents(call: Call) -> list[int | Tensor]:
    """What shows later whether a call's tensors have been written to: their write counts, or copies without a count."""
    return [leaf.value.clone() if leaf.value.is_inference() else write_count(leaf.value) for leaf in call.leaves]


def _has_contents(call: Call, contents: Sequence[int | Tensor]) -> bool:
    return all(
        torch.equal(leaf.value, before) if isinstance(before, Tensor) else write_count(leaf.value) == before
        for leaf, before in zip(call.leaves, contents, strict=True)
    )
