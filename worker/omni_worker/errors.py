"""The errors that users see. Each carries what the layers above need to report it.

A `CommandError` ends a command with a message and an exit code. A `RequestError` ends one request; replicas send its
fields to the head.
"""

import pickle
import traceback
from typing import Any, Literal


class CommandError(Exception):
    """A command cannot continue; the message says why and what to do."""

    exit_code = 1


class UsageError(CommandError):
    """An argument or a file given to the command is not usable."""

    exit_code = 2


class LoadError(CommandError):
    """A model cannot be loaded; the message says which one and why."""


CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
"""The code of a RequestError for a prompt that is too long. Clients shorten the conversation and try again."""


ErrorKind = Literal["invalid", "failed", "refused", "busy", "unavailable", "aborted"]


class RequestError(Exception):
    """One request failed. `kind` decides what happens next:

    - `invalid`: the request itself is wrong; never retried (HTTP 400, `param` names the field)
    - `failed`: the model failed on it; retried on other replicas, since the replica may be the cause (HTTP 500 if it
      fails there too)
    - `refused`: the replica drains and accepts no new requests; retried on another replica
    - `busy`: the replica's queue is full; retried on the others, and if all are full, HTTP 429 with `retry_after` in
      seconds
    - `unavailable`: no replica accepted it in time (HTTP 503)
    - `aborted`: the client or the head aborted it

    `code` tells programs more than the kind does: `context_length_exceeded` means that a shorter prompt would do.

    `stage` is the name of the stage at which the request failed; None if it failed outside of a stage.
    """

    stage: str | None = None
    is_counted = False
    """Whether the metrics include the request."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        param: str | None = None,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message, self.param, self.retry_after, self.code), self.__dict__


class ReplicaLost(Exception):
    """A replica was lost while it ran a request, which therefore restarts on another one.

    `reason`: the replica `crashed` (its connection closed), `stalled` (it became silent) or `left` (it deregistered).
    """

    def __init__(self, message: str, reason: str = "left") -> None:
        super().__init__(message)
        self.reason = reason


def portable(error: Exception) -> Exception:
    """An error that pickle can send to another process: `error`, or else a RuntimeError with its type and text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def without_frames(error: Exception) -> Exception:
    """`error`, with its traceback as a note unless a user sees why it was raised.

    Its frames would keep in memory what their requests computed.
    """
    if error.__traceback__ is not None and not isinstance(error, RequestError):
        error.add_note("".join(traceback.format_exception(error)).rstrip())
    chain: list[BaseException | None] = [error]
    while chain:
        if (one := chain.pop()) is not None:
            chain += [one.__cause__, one.__context__]
            one.__traceback__ = one.__cause__ = one.__context__ = None
    return error
