"""Polls heads: keeps one entry for each pipeline whose head is polled, and updates it from the head's answers.

A pass over a pipeline adds or removes its entry. Between passes, `poll` asks the head and says whether the pipeline
needs another pass. Whatever goes wrong with a head is its pipeline's problem: `poll` logs it and raises nothing.
Thread-safe.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.crd.objects import PipelineKey
from omni_operator.crd.spec.pipeline import OmniPipeline

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PollEntry:
    """A pipeline whose head is polled. Subclasses add what they remember of the answers.

    problem: why the last poll got no answer; empty if it got one, or was not made yet
    """

    pipeline: OmniPipeline
    problem: str = ""


Entry = TypeVar("Entry", bound=PollEntry)
Answer = TypeVar("Answer")


class Poller(ABC, Generic[Entry, Answer]):
    """`read` asks the head of a pipeline, blocking, and raises HeadError."""

    def __init__(self, read: Callable[[OmniPipeline], Answer]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._entries: dict[PipelineKey, Entry] = {}

    @abstractmethod
    def _update(self, entry: Entry, answer: Answer | HeadError) -> bool:
        """Update an entry, with the lock held. Returns whether its pipeline needs another pass."""

    @property
    def keys(self) -> list[PipelineKey]:
        """The pipelines to poll."""
        with self._lock:
            return list(self._entries)

    @property
    def failing_keys(self) -> set[PipelineKey]:
        """The pipelines whose head gave no usable answer to the last poll."""
        with self._lock:
            return {key for key, entry in self._entries.items() if entry.problem}

    def poll(self, key: PipelineKey) -> bool:
        """Ask the head of one pipeline. Returns whether the pipeline needs another pass."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        answer: Answer | HeadError
        try:
            answer = self._read(entry.pipeline)
        except HeadError as error:
            answer = error
        except Exception as error:
            logger.exception("%s/%s: a defect of the operator, while it polled the head", *key)
            answer = HeadError(f"a defect of the operator: {error!r}")
        with self._lock:
            if self._entries.get(key) is not entry:  # forgotten or replaced during the request
                return False
            self._note_problem(key, entry, str(answer) if isinstance(answer, HeadError) else "")
            return self._update(entry, answer)

    def _note_problem(self, key: PipelineKey, entry: Entry, problem: str) -> None:
        """Log when the polls begin to fail, or fail in another way, or succeed again."""
        if problem and problem != entry.problem:
            logger.warning("%s/%s: %s", *key, problem)
        elif entry.problem and not problem:
            logger.info("%s/%s: the head answers again", *key)
        entry.problem = problem

    def forget(self, key: PipelineKey) -> None:
        """Stop polling the head of a pipeline."""
        with self._lock:
            self._entries.pop(key, None)

    def forget_where(self, is_left: Callable[[str], bool]) -> None:
        """Stop polling in every namespace for which `is_left` returns True, because another operator acts there."""
        with self._lock:
            self._entries = {key: entry for key, entry in self._entries.items() if not is_left(key[0])}
