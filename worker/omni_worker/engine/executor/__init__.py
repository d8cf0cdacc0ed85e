"""Runs a scheduler's output on worker processes; knows no request state."""

from omni_worker.engine.executor.abstract import Executor
from omni_worker.engine.executor.uniproc import UniProcExecutor

__all__ = ["Executor", "UniProcExecutor"]
