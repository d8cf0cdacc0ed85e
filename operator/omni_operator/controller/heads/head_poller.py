"""Polls heads for the number of their local replicas that serve, which no pod status shows.

A head stays ready while one of its local replicas is down, because the others still serve. The pipeline then has fewer
replicas than its spec says, and its status reports that. Only heads with local replicas are polled.
"""

from dataclasses import dataclass

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.controller.heads.poller import PollEntry, Poller
from omni_operator.crd.spec.pipeline import OmniPipeline


@dataclass
class LocalReplicas(PollEntry):
    """The local replicas of one head. `serving`: how many serve; None before the first answer."""

    serving: int | None = None


class HeadPoller(Poller[LocalReplicas, int]):
    """The heads with local replicas."""

    def serving(self, pipeline: OmniPipeline, is_head_ready: bool) -> int | None:
        """Local replicas that serve, by the head's last answer; asks the head if there is none yet.

        None if the head is not ready, has no local replicas, or has not answered yet.
        """
        key = (pipeline.namespace, pipeline.name)
        if not is_head_ready or not pipeline.spec.head.local_replicas:
            self.forget(key)
            return None
        with self._lock:
            entry = self._entries.setdefault(key, LocalReplicas(pipeline))
            entry.pipeline = pipeline
        if entry.serving is None:
            self.poll(key)
        return entry.serving

    def _update(self, entry: LocalReplicas, answer: int | HeadError) -> bool:
        """Keeps the last number if the head does not answer."""
        if isinstance(answer, HeadError):
            return False
        is_changed = answer != entry.serving
        entry.serving = answer
        return is_changed
