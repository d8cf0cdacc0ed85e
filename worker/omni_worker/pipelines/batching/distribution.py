"""Distributes calls, or the rows of a single call, over the ranks of a replica."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.effects import Outcome
from omni_worker.pipelines.batching.keys import BatchKey, KeyTable
from omni_worker.pipelines.batching.parallel_models import ParallelModels
from omni_worker.pipelines.batching.prove import agrees_with, equal_states
from omni_worker.pipelines.batching.splitting import join_results, split_rows


@dataclass
class CallCounts:
    """How many calls ran in a batch, how many ran alone, and how many proofs were made."""

    batched: int = 0
    single: int = 0
    proofs: int = 0


class RankDistribution:
    """Runs calls on several ranks. All ranks call it with the same calls and get the same results.

    run: runs calls on this rank
    is_proven: whether calls run together without a proof
    parallel: the models whose calls need several ranks at once: these are one unit, among which calls are divided
    """

    def __init__(
        self,
        ranks: Ranks,
        run: Callable[[Sequence[Call]], list[Outcome]],
        is_proven: Callable[[Sequence[Call]], bool],
        keys: KeyTable,
        counts: CallCounts,
        parallel: ParallelModels,
    ) -> None:
        self._ranks = ranks
        self._run = run
        self._is_proven = is_proven
        self._keys = keys
        self._counts = counts
        self._parallel = parallel
        self._is_divisible: dict[BatchKey, bool] = {}

    def run(self, calls: Sequence[Call]) -> list[Outcome]:
        """The outcome of each call. Each unit runs some of the calls; if there are too few, some rows of each.

        Raises RequestError if the ranks cannot divide a call's sequences.
        """
        together = self._parallel.ranks_of(calls[0])
        if together > 1:
            for call in calls:
                self._parallel.require_divisible(call)
        units = self._ranks.size // together
        are_divisible = all(call.rows > 1 and not call.context.needs_exact_bits for call in calls)
        if len(calls) < units and are_divisible:
            return [self._run_divided(call, together) for call in calls]
        shares = [self._ranks.share(len(calls), unit * together, together) for unit in range(units)]
        return self._run_parts([calls[share.start : share.stop] for share in shares if share], together)

    def _run_parts(self, parts: Sequence[Sequence[Call]], together: int) -> list[Outcome]:
        """Run one part on each unit. One that needs a proof first runs on all ranks, so that all know the verdict."""
        results: dict[int, list[Outcome]] = {}
        for number, part in enumerate(parts):
            if len(part) > 1 and not self._is_proven(part):
                results[number] = self._from_one_unit(
                    self._run_everywhere(partial(self._run, part), together), together
                )
        rest = [number for number in range(len(parts)) if number not in results]
        runs = self._spread([partial(self._run_with_states, parts[number]) for number in rest], together)
        for number, (part_results, random_states) in zip(rest, runs, strict=True):
            for call, states in zip(parts[number], random_states, strict=True):
                call.restore_random_states(states)
            results[number] = part_results
        return [result for number in range(len(parts)) for result in results[number]]

    def _spread(self, jobs: Sequence[Callable[[], Any]], together: int) -> list[Any]:
        """The results of jobs, each of which runs on one unit."""
        guarded = [self._parallel.guarded(job) for job in jobs] if together > 1 else jobs
        return self._ranks.spread(guarded, together)

    def _run_everywhere(self, job: Callable[[], Any], together: int) -> Any:
        """The result of a job that runs on all ranks."""
        return self._ranks.run_together(self._parallel.guarded(job), together) if together > 1 else job()

    def _run_with_states(self, calls: Sequence[Call]) -> tuple[list[Outcome], list[list[Tensor]]]:
        """The results, and the calls' random states afterwards, which the other ranks need."""
        return self._run(calls), [call.random_states for call in calls]

    def _from_one_unit(self, results: list[Outcome], together: int) -> list[Outcome]:
        """One unit's results, bit for bit, on all ranks."""
        return list(self._ranks.spread([lambda: results], together)[0])

    def _run_divided(self, call: Call, together: int) -> Outcome:
        """Run one call, with its rows divided among the units if that is proven to be right."""
        key = self._keys.of(call)
        count = min(self._ranks.size // together, call.rows)
        if key in self._is_divisible and not self._is_divisible[key]:
            return self._run_parts([[call]], together)[0]
        if key not in self._is_divisible:
            before, complete = call.random_states, self._run_everywhere(call.compute, together)
            is_random = not equal_states(before, call.random_states)
            self._is_divisible[key] = not is_random and agrees_with(
                complete, partial(self._run_rows, call, count, together)
            )
            self._counts.proofs += 1
            return self._from_one_unit([complete], together)[0]
        return self._run_rows(call, count, together)

    def _run_rows(self, call: Call, count: int, together: int) -> Outcome:
        self._counts.single += 1
        parts = self._spread([part.compute for part in split_rows(call, count)], together)
        outcome: Outcome = join_results(parts)
        return outcome
