"""The failures that users see: each carries what every layer above needs to report it.

A `CommandError` ends a command with a message and an exit code. A `RequestError` ends one request, and crosses the
wire between replica and head as its fields.
"""


class CommandError(Exception):
    """A command cannot go on; the message says why and what to do."""

    exit_code = 1


class UsageError(CommandError):
    """The command was given something it cannot use."""

    exit_code = 2


class RequestError(Exception):
    """One request failed. `kind` decides what happens next:

    - `invalid`: the request itself is wrong; never retried (HTTP 400, `param` names the field)
    - `failed`: the model failed on it; never retried, since it would fail elsewhere too (HTTP 500)
    - `refused`: the replica takes nothing new (it drains or is full); retried on another one
    - `unavailable`: no replica could take it in time (HTTP 503)
    - `aborted`: somebody asked for its end
    """

    def __init__(self, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param


class ReplicaLost(Exception):
    """The replica went away while it held a request; the request may run again elsewhere."""
