"""Turns a scheduler's output into model calls, in the worker process."""

from omni_worker.engine.runner.interface import Runner

__all__ = ["Runner"]
