"""The threads and tasks that run as long as the operator does. If one of them ends, the operator has to end.

An operator without its Lease thread, or without one of its watches, looks alive and does nothing. So every such thread
and task is started here, and nowhere else: its unexpected end is logged with its cause and reported once. Then the
process ends, and Kubernetes starts it again.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Background:
    """`on_failure` is called once, from any thread, when the first of the threads and tasks ends.

    `failure` says which one that was; it is empty while all of them run.
    """

    def __init__(self) -> None:
        self.failure = ""
        self.on_failure: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._may_end = False

    def start_thread(self, name: str, run: Callable[[], object]) -> threading.Thread:
        """Run something in a daemon thread."""
        thread = threading.Thread(target=self._run, args=(name, run), name=name, daemon=True)
        thread.start()
        return thread

    def start_task(self, name: str, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something as a task of the running event loop."""
        task = asyncio.create_task(run, name=name)
        task.add_done_callback(self._on_task_end)
        return task

    def let_end(self) -> None:
        """From now on, the end of a thread or task is expected."""
        self._may_end = True

    def _run(self, name: str, run: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            run()
        except BaseException as raised:  # also SystemExit, which would end a thread without a word
            error = raised
        self._on_end(f"the thread {name}", error)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._on_end(f"the task {task.get_name()}", None if task.cancelled() else task.exception())

    def _on_end(self, what: str, error: BaseException | None) -> None:
        with self._lock:
            is_expected, is_first = self._may_end, not self.failure
            if is_expected:
                return
            cause = repr(error) if error else "it returned or was cancelled"
            if is_first:
                self.failure = f"{what} has ended: {cause}"
        logger.critical("%s has ended: %s; the operator ends too, to be started again", what, cause, exc_info=error)
        if is_first:
            self.on_failure()
