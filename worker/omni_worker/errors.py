"""The failures that users see: each carries what every layer above needs to report it.

A `CommandError` ends a command with a message and an exit code. A `RequestError` ends one request, and crosses the
wire between replica and head as its fields.
"""

import pickle
from typing import Any


class CommandError(Exception):
    """A command cannot go on; the message says why and what to do."""

    exit_code = 1


class UsageError(CommandError):
    """The command was given something it cannot use."""

    exit_code = 2


class LoadError(CommandError):
    """The model cannot be loaded; the message says which one and why."""


class RequestError(Exception):
    """One request failed. `kind` decides what happens next:

    - `invalid`: the request itself is wrong; never retried (HTTP 400, `param` names the field)
    - `failed`: the model failed on it; never retried, since it would fail elsewhere too (HTTP 500)
    - `refused`: the replica takes nothing new, for it drains; retried on another one
    - `busy`: the replica's queue is full; tried on the others, and once all are (HTTP 429, to come again in
      `retry_after` seconds) given up
    - `unavailable`: no replica could take it in time (HTTP 503)
    - `aborted`: somebody asked for its end

    `stage` is the name of the stage at which it happened, where it happened at one.
    """

    stage: str | None = None

    def __init__(self, kind: str, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message, self.param, self.retry_after), self.__dict__


class ReplicaLost(Exception):
    """The replica went away while it held a request, which runs again elsewhere.

    `reason`: it `crashed` (it was there, and its connection closed), `stalled` (it fell silent), or `left`.
    """

    def __init__(self, message: str, reason: str = "left") -> None:
        super().__init__(message)
        self.reason = reason


def portable(error: Exception) -> Exception:
    """The error, in a form that pickle brings to another process: itself, or a RuntimeError that names it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
