"""Audits verdicts while they are used: now and then, one call of a batch also runs alone, and the results are compared.

A proof covers the calls that it saw. A model may treat later ones differently, at another timestep for example. An
audit costs one call for EVERY_BATCHES batches of a verdict. That is at most 1 % of their time, because a call alone
takes no longer than its batch.
"""

import itertools
from collections.abc import Sequence

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import agree
from omni_worker.pipelines.batching.effects import Outcome
from omni_worker.pipelines.batching.structure import is_finite
from omni_worker.pipelines.batching.verdicts import Verdict

EVERY_BATCHES = 100


class Audits:
    """The audits of a process.

    made: how many calls were compared
    revoked: how many verdicts were revoked, because the results differed
    """

    def __init__(self) -> None:
        self.made = 0
        self.revoked = 0
        self._turns = itertools.count()

    def is_right(self, verdict: Verdict, calls: Sequence[Call], outcomes: Sequence[Outcome]) -> bool:
        """Whether a batch's results may be used: no audit is due, or the audited call gave the same result alone.

        The calls of a batch take turns, so that every place in it is audited.
        """
        verdict.batches += 1
        if verdict.batches % EVERY_BATCHES:
            return True
        i = next(self._turns) % len(calls)
        alone = calls[i].compute()
        if not is_finite(alone):  # a poisoned request proves nothing about the others
            return True
        self.made += 1
        if agree(alone, outcomes[i]):
            return True
        self.revoked += 1
        return False
