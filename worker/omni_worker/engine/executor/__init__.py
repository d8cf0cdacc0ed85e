"""Runs a scheduler's output on worker processes; knows no request state.

`multiproc` is imported by who needs it: it brings torch and ZeroMQ with it.
"""

from omni_worker.engine.executor.interface import Executor, ExecutorFailed
from omni_worker.engine.executor.uniproc import UniProcExecutor

__all__ = ["Executor", "ExecutorFailed", "UniProcExecutor"]
