"""Polls heads for what no pod status shows: their local replicas that serve, whether they refuse new replicas, which
LoRA adapters their replicas have, and whether servers that are stages answer.

A head stays ready while one of its local replicas is down, because the others still serve. The pipeline then has fewer
replicas than its spec says, and its status reports that. A head that waits for a new image may refuse the replicas that
have it. Only such heads are polled, and those of pipelines with adapters or such servers.
"""

from dataclasses import dataclass

from omni_operator.controller.heads.head_api import HeadError, HeadState
from omni_operator.controller.heads.poller import PollEntry, Poller
from omni_operator.crd.objects import PipelineKey
from omni_operator.crd.spec.pipeline import OmniPipeline


@dataclass(kw_only=True)
class PolledHead(PollEntry):
    """A head that is polled. `state`: its last answer; None before the first."""

    state: HeadState | None = None


class HeadPoller(Poller[PolledHead, HeadState]):
    """The heads with local replicas, adapters or servers as stages, and those that wait for a new image."""

    def last_state(self, key: PipelineKey) -> HeadState | None:
        """The head's last answer; None if it is not polled, or has not answered yet."""
        with self._lock:
            entry = self._entries.get(key)
            return entry.state if entry else None

    def follow(self, pipeline: OmniPipeline, is_needed: bool) -> HeadState | None:
        """Poll the head while that is needed. Returns its last answer; asks the head once if there is none yet."""
        key = (pipeline.namespace, pipeline.name)
        if not is_needed:
            self.forget(key)
            return None
        with self._lock:
            entry = self._entries.setdefault(key, PolledHead(pipeline=pipeline))
            entry.pipeline = pipeline
        if entry.state is None and not entry.problem:  # one that failed is left to the polling: a pass must not wait
            self.poll(key)
        return entry.state

    def _update(self, entry: PolledHead, answer: HeadState | HeadError) -> bool:
        """Keeps the last state if the head does not answer."""
        if isinstance(answer, HeadError):
            return False
        is_changed = answer != entry.state
        entry.state = answer
        return is_changed
