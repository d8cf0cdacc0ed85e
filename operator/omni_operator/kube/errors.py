"""The errors of calls to the API server, and how to read one from an answer. Imports nothing of this package."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

CANNOT_ONLY_CREATE = "resourceVersion should not be set on objects to be created"
UNREADABLE_PREFIXES = ("failed to create typed patch object", "failed to convert new object")


class ApiError(Exception):
    """The API server rejected a request. The text is the server's own message.

    `causes` lists what the server says about single fields, as (field, reason, message). `retry_after` is the time in
    seconds that the server asks clients to wait.
    """

    exit_code = 1

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        causes: Sequence[tuple[str, str, str]] = (),
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.causes, self.retry_after = status, reason, tuple(causes), retry_after

    @property
    def is_transient(self) -> bool:
        """Whether the server was only busy or failing, so that the same request can succeed later."""
        is_busy = self.status >= 500 or self.status == 429
        return is_busy and not self.is_unreadable and not self.cannot_only_create

    @property
    def is_unreadable(self) -> bool:
        """Whether the server could not parse the object. Old servers report that as an internal error (500)."""
        return str(self).startswith(UNREADABLE_PREFIXES)

    @property
    def cannot_only_create(self) -> bool:
        """Whether the server cannot apply an object of this kind only if there is none. Old servers report that as an
        internal error (500)."""
        return CANNOT_ONLY_CREATE in str(self)

    @property
    def is_race(self) -> bool:
        """Whether another client wrote at the same time, so that it helps to read the object again."""
        return self.status == 409 and not any(reason == "FieldManagerConflict" for _, reason, _ in self.causes)


class Unreachable(Exception):
    """The API server did not answer. `is_timeout`: it was only noticed after the whole timeout."""

    exit_code = 1

    def __init__(self, message: str, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.is_timeout = is_timeout


class NotLeading(Exception):
    """Another operator acts in this namespace, so this one must not write there."""


class NoCredentials(Exception):
    """There is neither a kubeconfig nor a service account."""

    exit_code = 1


class BrokenKubeconfig(Exception):
    """A kubeconfig cannot be used. The message names the file, what is wrong with it, and what to do."""

    exit_code = 1


def error_from_response(status: int, reason: str, content: bytes, retry_after: str | None) -> ApiError:
    """The error for an answer with an HTTP status of 400 or more. `retry_after`: the header of that name, if any."""
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
    try:
        error = error_from_status(json.loads(content))
        return ApiError(error.status or status, error.reason, str(error), error.causes, seconds)
    except (ValueError, AttributeError):
        return ApiError(status, reason, content.decode(errors="replace")[:500], (), seconds)


def error_from_status(status: Mapping[str, Any]) -> ApiError:
    """The error that a Status object of the API server describes."""
    details = (status.get("details") or {}).get("causes") or []
    causes = [(one.get("field") or "", one.get("reason") or "", one.get("message") or "") for one in details]
    return ApiError(
        int(status.get("code") or 0), status.get("reason") or "Unknown", status.get("message") or "no message", causes
    )
