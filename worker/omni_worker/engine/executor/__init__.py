"""Runs a scheduler's output on worker processes. It knows no request state.

Import `multiproc` only where it is used: it imports torch and ZeroMQ.
"""

from omni_worker.engine.executor.interface import Executor, ExecutorFailed
from omni_worker.engine.executor.uniproc import UniProcExecutor

__all__ = ["Executor", "ExecutorFailed", "UniProcExecutor"]
