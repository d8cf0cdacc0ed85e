"""Runs model calls in batches, and trusts no batch before it is proven.

The first batch of a key runs both together and alone, and the results are compared (`prove`). If no plan gives the
right results, the key's calls run alone from then on (`verdicts`). Later batches are audited now and then (`audits`).
"""

import logging
from collections.abc import Sequence
from typing import Any

from omni_worker.device.out_of_memory import free_failed_work, is_out_of_memory
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.batching.audits import Audits
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import LengthBuckets
from omni_worker.pipelines.batching.comparing import TensorEquality
from omni_worker.pipelines.batching.distribution import CallCounts, RankDistribution
from omni_worker.pipelines.batching.effects import Outcome
from omni_worker.pipelines.batching.keys import BatchKey, KeyTable
from omni_worker.pipelines.batching.memory_limits import MemoryLimits
from omni_worker.pipelines.batching.merging import run_merged
from omni_worker.pipelines.batching.parallel_models import ParallelModels
from omni_worker.pipelines.batching.plans import CannotMerge
from omni_worker.pipelines.batching.prove import prove, prove_again, run_alone, sample, sample_of_shape
from omni_worker.pipelines.batching.verdicts import Batch, Verdict, Verdicts

log = logging.getLogger(__name__)


class ProvenBatches:
    """Runs calls with equal keys together if that is proven to be right, and alone otherwise.

    ranks: if there are several, each runs some of the calls, or some rows of a single call
    buckets: the batch sizes to use, ascending. The last call is repeated until the batch has one of these sizes. Any
        size is used if there are none, and for batches larger than the largest
    rounds_lengths: whether sequences of different lengths are padded to one of a few lengths, or only to the longest
    parallel: the models that several of the ranks run together
    keys: of the calls
    """

    def __init__(
        self,
        ranks: Ranks | None = None,
        buckets: Sequence[int] = (),
        rounds_lengths: bool = False,
        parallel: ParallelModels | None = None,
    ) -> None:
        self.keys = KeyTable()
        self._counts = CallCounts()
        self._ranks = ranks or Ranks()
        self._buckets = buckets
        self._equality = TensorEquality()
        self._lengths = LengthBuckets() if rounds_lengths else None
        self._verdicts = Verdicts(self.keys, self._equality, self._lengths)
        self._memory = MemoryLimits()
        self._audits = Audits()
        self._parallel = parallel or ParallelModels()
        self._distribution = RankDistribution(
            self._ranks, self._run_here, self._is_proven, self.keys, self._counts, self._parallel
        )

    def key_of(self, call: Call) -> BatchKey:
        """The call's key. If calls like it are known to run alone, it is a key that no other call has."""
        key = self.keys.of(call)
        return KeyTable.alone(call) if self._verdicts.is_refuted(key) else key

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The result of each of `calls`, in their order. Raises what the model raises, and has written nothing then."""
        return [call.accept(outcome) for call, outcome in zip(calls, self.compute(calls), strict=True)]

    def compute(self, calls: Sequence[Call]) -> list[Outcome]:
        """The outcome of each of `calls`, which the caller has the call accept. Raises what the model raises."""
        return self._run_here(calls) if self._ranks.size == 1 else self._distribution.run(calls)

    @property
    def processes(self) -> int:
        """How many processes share the calls."""
        return self._ranks.size

    @property
    def units(self) -> int:
        """How many calls of a parallel model, or of any model if there is none, run at one time."""
        return self._ranks.size // self._parallel.degree

    @property
    def batched_calls(self) -> int:
        """How many calls ran in a batch."""
        return self._counts.batched

    @property
    def single_calls(self) -> int:
        """How many calls ran alone."""
        return self._counts.single

    @property
    def proofs(self) -> int:
        """How many proofs were made."""
        return self._counts.proofs

    @property
    def reasons(self) -> dict[str, str]:
        """Why calls of a model, by its name, run alone or did so once."""
        return self.keys.reasons

    def stats(self) -> dict[str, int]:
        """Counters for metrics: calls in batches and alone, proofs, audits, and keys whose calls may share a batch."""
        batched, alone = self._verdicts.counts()
        return {
            "batched_calls": self.batched_calls,
            "single_calls": self.single_calls,
            "proofs": self.proofs,
            "audits": self._audits.made,
            "verdicts_revoked": self._audits.revoked,
            "keys_batched": batched,
            "keys_alone": alone,
            **({"text_buckets": len(self._lengths.used)} if self._lengths else {}),
        }

    def _run_here(self, calls: Sequence[Call]) -> list[Outcome]:
        """Run calls in this process."""
        if len(calls) == 1:
            return self._run_alone(calls)
        size = self._memory.most_calls(calls, self.keys.of)
        failure: Exception | None = None
        if size == len(calls):
            try:
                return self._run_together(calls)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failure = error
        if failure is not None:
            size = len(calls) // 2
            log.warning("%d calls of %s do not fit into memory; they run in parts", len(calls), calls[0].model)
            free_failed_work(failure)
            failure = None
            self._memory.does_not_fit(self.keys.of(calls[0]), calls)
        return [result for i in range(0, len(calls), size) for result in self._run_here(calls[i : i + size])]

    def _run_together(self, calls: Sequence[Call]) -> list[Outcome]:
        """Run calls of one key as one, if that is proven to be right. Raises out-of-memory errors."""
        bucket = next((size for size in self._buckets if size >= len(calls)), len(calls))
        if bucket > len(calls):
            return self._run_together([*calls, *[calls[-1]] * (bucket - len(calls))])[: len(calls)]
        batch = self._verdicts.batch_of(calls)
        verdict = self._verdicts.of(batch)
        if verdict.is_refuted:
            return self._run_alone(calls) if batch.is_uniform else self._run_in_groups(batch)
        plan = verdict.plan_of_size.get(len(calls))
        if plan is None:
            return self._run_proof(batch, verdict)
        try:
            results = run_merged(batch.padded, plan, batch.lengths)
        except CannotMerge:
            return self._run_alone(calls)
        if self._ranks.size == 1 and not self._audits.is_right(verdict, calls, results):  # ranks must agree on verdicts
            reason = f"{len(calls)} calls gave another answer together than alone, when they were audited"
            self.keys.reasons[batch.key.model] = reason
            log.error("calls of %s run alone from now on: %s", batch.key.model, reason)
            self._verdicts.revoke(batch, verdict)
            return self._run_alone(calls)
        self._counts.batched += len(calls)
        return results

    def _run_alone(self, calls: Sequence[Call]) -> list[Outcome]:
        self._counts.single += len(calls)
        return [call.compute() for call in calls]

    def _run_in_groups(self, batch: Batch) -> list[Outcome]:
        """Run the calls of a refuted batch in groups that are not refuted."""
        groups: list[list[int]] = []
        for i, call in enumerate(batch.calls):
            for group in groups:
                if not self._verdicts.of(self._verdicts.batch_of([batch.calls[group[0]], call])).is_refuted:
                    group.append(i)
                    break
            else:
                groups.append([i])
        if len(groups) == 1:
            return self._run_alone(batch.calls)
        results: dict[int, Outcome] = {}
        for group in groups:
            results.update(zip(group, self._run_here([batch.calls[i] for i in group]), strict=True))
        return [results[i] for i in range(len(batch.calls))]

    def _run_proof(self, batch: Batch, verdict: Verdict) -> list[Outcome]:
        """Run the calls together and alone, and remember the verdict. The outcomes are right in any case."""
        self._counts.proofs += 1
        known, general = verdict.plan_of_size, self._verdicts.general_plans(batch.key.model)
        proof = None
        if known:
            alone = run_alone(batch.calls, sample(batch.calls))
        else:
            alone = run_alone(batch.calls, sample_of_shape(batch, self._equality) if general else ())
            proof = prove_again(batch, general, alone, self._equality)
            if proof is None:
                alone = run_alone(batch.calls, range(len(batch.calls)), earlier=alone)
        if proof is None:
            proof = prove(batch, known, alone, self._equality)
        self._counts.single += len(alone.outcomes)
        if proof.plan is not None:
            self._verdicts.accept(batch, proof.plan, proof.watched, proof.holds_perturbed)
            self._counts.batched += len(batch.calls)
            return [alone.outcomes.get(i, result) for i, result in enumerate(proof.outcomes)]
        if proof.reason is not None:
            self.keys.reasons[batch.key.model] = proof.reason
            log.warning("calls of %s run alone: %s", batch.key.model, proof.reason)
            self._verdicts.refute(batch, verdict)
        self._counts.single += len(batch.calls) - len(alone.outcomes)
        return [alone.outcomes[i] if i in alone.outcomes else call.compute() for i, call in enumerate(batch.calls)]

    def _is_proven(self, calls: Sequence[Call]) -> bool:
        """Whether calls run without a proof."""
        batch = self._verdicts.batch_of(calls)
        verdict = self._verdicts.of(batch)
        return len(calls) in verdict.plan_of_size or (verdict.is_refuted and batch.is_uniform)
