"""What is known about batches: by which plan calls of a key can be merged, and which calls must run alone.

A verdict holds for a key and a pattern: which tensors are equal in all calls. A batch of a new size is proven too,
because lengths can happen to equal the new size, and so is a batch whose masks differ if they were equal
before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import LengthBuckets
from omni_worker.pipelines.batching.comparing import TensorEquality
from omni_worker.pipelines.batching.keys import BatchKey, KeyTable
from omni_worker.pipelines.batching.merging import pad_to_common_length
from omni_worker.pipelines.batching.plans import MergePlan

MAX_FAILURES = 2
MAX_VERDICTS = 4096
GENERAL_PLANS = 2  # how many plans of a model's other calls are tried first

Pattern = tuple[bool, ...]


@dataclass(frozen=True)
class Batch:
    """Calls of one key, to run together.

    pattern: whether sequences had to be padded, whether all calls have the same adapters, then for each watched tensor
        whether it is equal in all calls
    calls: as the pipelines made them
    padded: the same calls with sequences of one length
    lengths: the sequences' own lengths; empty if nothing was padded
    """

    key: BatchKey
    pattern: Pattern
    calls: Sequence[Call]
    padded: Sequence[Call]
    lengths: Sequence[int]

    @property
    def padded_length(self) -> int:
        """The common length of the padded sequences; 0 if the model's calls have none."""
        collator = self.calls[0].collator
        return collator.length(self.padded[0].leaves) if collator is not None else 0

    @property
    def is_uniform(self) -> bool:
        """Whether the calls are as similar as calls can be, so that no smaller group of them could fare better."""
        return not self.pattern[0] and all(self.pattern[1:])


@dataclass
class Verdict:
    """What is known about the batches of one key and pattern.

    plan_of_size: the right plan for each number of calls
    failures: how many proofs found no right plan
    batches: how many batches ran by the verdict
    """

    plan_of_size: dict[int, MergePlan] = field(default_factory=dict)
    failures: int = 0
    batches: int = 0

    @property
    def is_refuted(self) -> bool:
        """Whether such calls run alone from now on."""
        return self.failures >= MAX_FAILURES or (self.failures > 0 and not self.plan_of_size)


class Verdicts:
    """The verdicts of a process, and the keys whose calls always run alone.

    buckets: the lengths to which sequences are padded; None pads them to the longest one of a batch
    """

    def __init__(self, keys: KeyTable, equality: TensorEquality, buckets: LengthBuckets | None = None) -> None:
        self._keys = keys
        self._equality = equality
        self._buckets = buckets
        self._verdicts: dict[tuple[BatchKey, Pattern], Verdict] = {}
        self._refuted_keys: set[BatchKey] = set()
        self._watched: dict[BatchKey, frozenset[int]] = {}
        self._general_plans: dict[str, dict[MergePlan, None]] = {}

    def is_refuted(self, key: BatchKey) -> bool:
        """Whether all calls of the key run alone."""
        return key in self._refuted_keys

    def batch_of(self, calls: Sequence[Call]) -> Batch:
        """A batch of `calls`, which have equal keys."""
        padded, lengths = pad_to_common_length(calls, self._buckets)
        key = self._keys.of(calls[0])
        have_same_adapters = len({call.context.adapters for call in calls}) == 1
        pattern = bool(lengths), have_same_adapters, *self._equal_tensors(key, padded)
        return Batch(key, pattern, calls, padded, lengths)

    def of(self, batch: Batch) -> Verdict:
        """The verdict on batches like this one; an empty one if there is none yet."""
        verdict = self._verdicts.get((batch.key, batch.pattern))
        if verdict is None:
            verdict = self._verdicts[batch.key, batch.pattern] = Verdict()
            if len(self._verdicts) > MAX_VERDICTS:
                del self._verdicts[next(iter(self._verdicts))]
        return verdict

    def general_plans(self, model: str) -> list[MergePlan]:
        """Plans that held for other calls of the model, perturbed ones too; the latest first."""
        return list(reversed(self._general_plans.get(model, {})))[:GENERAL_PLANS]

    def accept(self, batch: Batch, plan: MergePlan, watched: frozenset[int], is_general: bool = False) -> None:
        """Remember that `plan` is right for batches like this one.

        watched: the leaves that the plan relies on. From now on, the pattern says whether they are equal in all calls.
        is_general: whether the plan is worth trying for other calls of the model
        """
        if is_general:
            plans = self._general_plans.setdefault(batch.key.model, {})
            plans.pop(plan, None)
            plans[plan] = None
        if watched:
            self._watched[batch.key] = self._watched.get(batch.key, frozenset()) | watched
            batch = replace(batch, pattern=(*batch.pattern[:2], *self._equal_tensors(batch.key, batch.padded)))
        self.of(batch).plan_of_size[len(batch.padded)] = plan

    def refute(self, batch: Batch, verdict: Verdict) -> None:
        """Remember that no plan is right for this batch."""
        verdict.failures += 1
        if verdict.is_refuted and batch.is_uniform:
            self._refuted_keys.add(batch.key)

    def revoke(self, batch: Batch, verdict: Verdict) -> None:
        """An audit found that batches like this one give wrong results: their calls run alone from now on."""
        verdict.plan_of_size.clear()
        verdict.failures = MAX_FAILURES
        self._general_plans.pop(batch.key.model, None)
        if batch.is_uniform:
            self._refuted_keys.add(batch.key)

    def counts(self) -> tuple[int, int]:
        """How many verdicts let calls share a batch, and how many make them run alone."""
        refuted = sum(verdict.is_refuted for verdict in self._verdicts.values())
        return len(self._verdicts) - refuted, refuted

    def _equal_tensors(self, key: BatchKey, calls: Sequence[Call]) -> Pattern:
        """For each tensor that is watched, is a mask, or has no rows: whether it is equal in all calls."""
        first, others, watched = calls[0], calls[1:], self._watched.get(key, frozenset())
        return tuple(
            all(self._equality(leaf.value, other.leaves[i].value) for other in others)
            for i, leaf in enumerate(first.leaves)
            if i in watched or (leaf.value.dim() and (leaf.value.shape[0] != first.rows or leaf.is_mask))
        )
