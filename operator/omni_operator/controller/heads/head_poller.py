"""What the heads tell of the replicas inside them: how many serve, of which no pod says anything.

A head stays in the API's Service while one of its replicas is away, for the others serve on; but the pipeline has less
than it asked for, and its status is to say so. Only pipelines with replicas in the head are asked. Usable from many
threads.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from omni_operator.controller.heads.head_api import UnknownLoad
from omni_operator.crd.spec.pipeline import OmniPipeline

Key = tuple[str, str]


@dataclass
class Known:
    pipeline: OmniPipeline
    serving: int | None


class Heads:
    """`read` asks a head how many of its own replicas serve, and raises UnknownLoad."""

    def __init__(self, read: Callable[[OmniPipeline], int]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._known: dict[Key, Known] = {}

    def serving(self, pipeline: OmniPipeline, is_ready: bool) -> int | None:
        """Replicas that serve inside a head that is ready; None where there are to be none, or it does not tell."""
        key = (pipeline.namespace, pipeline.name)
        if not is_ready or not pipeline.spec.head.local_replicas:
            self.forget(key)
            return None
        with self._lock:
            known = self._known.setdefault(key, Known(pipeline, None))
            known.pipeline = pipeline
        if known.serving is None:
            self.poll(key)
        return known.serving

    def forget(self, key: Key) -> None:
        with self._lock:
            self._known.pop(key, None)

    def forget_where(self, is_left: Callable[[str], bool]) -> None:
        """Another operator asks from now on, in the namespaces of which that is so."""
        with self._lock:
            self._known = {key: known for key, known in self._known.items() if not is_left(key[0])}

    @property
    def keys(self) -> list[Key]:
        """The pipelines to poll."""
        with self._lock:
            return list(self._known)

    def poll(self, key: Key) -> bool:
        """Ask one head. True where it tells another number than before."""
        known = self._known.get(key)
        if known is None:
            return False
        try:
            told = self._read(known.pipeline)
        except UnknownLoad:
            return False
        is_news = told != known.serving
        known.serving = told
        return is_news
