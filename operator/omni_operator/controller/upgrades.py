"""The turns of one operator process, for passes in several threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from omni_operator.crd.objects import Object, PipelineKey
from omni_operator.planning.observed import is_late
from omni_operator.planning.plan import Plan, differs, reference
from omni_operator.planning.rollout import is_current, is_rolled_out
from omni_operator.planning.turns import Turns, upgraded_deployments


class Upgrades:
    """Lets `limit` pipelines at a time change because of the operator. Thread-safe.

    `on_turn` is called with the key of a pipeline that has waited and may change now.
    """

    def __init__(self, limit: int, on_turn: Callable[[PipelineKey], None]) -> None:
        self._turns = Turns(limit)
        self._on_turn = on_turn
        self._lock = threading.Lock()

    def plan(
        self, key: PipelineKey, manifest: Object, plan: Plan, desired: Sequence[Object], live: Sequence[Object]
    ) -> tuple[Plan, bool]:
        """A plan without what must wait for the pipeline's turn, and whether anything must."""
        upgraded = upgraded_deployments(manifest, plan, live)
        with self._changed_turns() as turns:
            if is_over(desired, live) if turns.has(key) else not upgraded:
                turns.end(key, is_upgraded=True)
            must_wait = bool(upgraded) and not turns.take(key)
        for child in upgraded if must_wait else ():
            plan = plan.without(reference(child))
        return plan, must_wait

    def has_turn(self, key: PipelineKey) -> bool:
        """Whether the pipeline is changing because of the operator."""
        with self._lock:
            return self._turns.has(key)

    def give_up(self, key: PipelineKey) -> None:
        """The pipeline cannot change now, so that others need not wait for it."""
        with self._changed_turns() as turns:
            turns.end(key, is_upgraded=False)

    def forget(self, key: PipelineKey) -> None:
        """The pipeline no longer exists."""
        with self._changed_turns() as turns:
            turns.forget(key)

    @contextmanager
    def _changed_turns(self) -> Iterator[Turns]:
        with self._lock:
            before = self._turns.next()
            yield self._turns
            after = self._turns.next()
        if after and after != before:
            self._on_turn(after)


def is_over(desired: Sequence[Object], live: Sequence[Object]) -> bool:
    """Whether every Deployment is rolled out, or one has failed to become ready in time."""
    live_by_reference = {reference(child): child for child in live}
    wanted = [child for child in desired if child["kind"] == "Deployment"]
    pairs = [(child, live_by_reference.get(reference(child))) for child in wanted]
    current = [(child, before) for child, before in pairs if before and is_current(before)]
    rolled_out = [before for child, before in current if is_rolled_out(before) and not differs(child, before)]
    return len(rolled_out) == len(wanted) or any(is_late(before) for _, before in current)
