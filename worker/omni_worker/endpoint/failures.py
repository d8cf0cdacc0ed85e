"""What a call to a stage's server can fail with: what it says to the client, and whether another try may succeed."""

from dataclasses import dataclass

import msgspec

from omni_worker.errors import CONTEXT_LENGTH_EXCEEDED, ErrorKind, RequestError

SHOWN_CHARACTERS = 500
"""Of what the server says, in errors."""
INVALID_STATUSES = (400, 413, 422)
"""The server says that the request itself is wrong."""
TRANSIENT_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""The same call may succeed later."""
TOO_MANY_REQUESTS, UNAVAILABLE = 429, 503
MAX_RETRY_AFTER = 86_400.0


@dataclass
class EndpointFailure(Exception):
    """One call failed.

    kind, problem, code: of the error that the client gets, `problem` after the server's name
    is_transient: whether another try may succeed
    retry_after: seconds that the server asks to wait before
    is_outage: whether the server itself seems to be down
    status: of the response; None if there was none
    """

    kind: ErrorKind
    problem: str
    is_transient: bool = False
    retry_after: float | None = None
    code: str | None = None
    is_outage: bool = False
    status: int | None = None

    def to_error(self, server: str) -> RequestError:
        """The error for the client. `server` names the stage's server."""
        return RequestError(self.kind, f"{server} {self.problem}", retry_after=self.retry_after, code=self.code)


class ServerError(msgspec.Struct, frozen=True):
    """The body of OpenAI's errors. `code` is a word, or a number at some servers."""

    message: str = ""
    code: str | int | None = None


class _Errors(msgspec.Struct, frozen=True):
    error: ServerError | str | None = None
    message: str | None = None
    detail: str | None = None


def from_status(status: int, body: bytes, retry_after: str | None = None, key: str | None = None) -> EndpointFailure:
    """The failure for a response that is no 200, from its body and its header Retry-After."""
    said, code = what_it_says(body, key)
    problem = f"answered {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        problem += "; redirects are not followed: give the final URL as endpoint.url"
        return EndpointFailure("failed", problem, status=status)
    if status in INVALID_STATUSES:
        code_of_ours = CONTEXT_LENGTH_EXCEEDED if is_too_long(code, said) else None
        return EndpointFailure("invalid", problem, code=code_of_ours, status=status)
    kind: ErrorKind = "busy" if status == TOO_MANY_REQUESTS else "unavailable" if status == UNAVAILABLE else "failed"
    return EndpointFailure(
        kind, problem, status in TRANSIENT_STATUSES, seconds_of(retry_after), is_outage=status >= 500, status=status
    )


def from_event(error: ServerError, key: str | None = None) -> EndpointFailure:
    """The failure for an error that the server sends within its stream."""
    said, code = shown(error.message, key), str(error.code or "")
    if is_too_long(code, said):
        return EndpointFailure("invalid", f"failed: {said}", code=CONTEXT_LENGTH_EXCEEDED)
    is_wrong = code.isdigit() and int(code) in INVALID_STATUSES
    return EndpointFailure("invalid" if is_wrong else "failed", f"failed: {said}", is_transient=not is_wrong)


def what_it_says(body: bytes, key: str | None) -> tuple[str, str]:
    """The message of an error's body, short enough to show, and its code."""
    try:
        errors = msgspec.json.decode(body, type=_Errors)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return shown(body.decode(errors="replace"), key), ""
    error = ServerError(errors.error) if isinstance(errors.error, str) else errors.error or ServerError()
    return shown(error.message or errors.message or errors.detail or "", key), str(error.code or "")


def shown(text: str, key: str | None = None) -> str:
    """A text of the server as errors show it: short, in one line, and without the key."""
    if key:
        text = text.replace(key, "***")
    text = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * SHOWN_CHARACTERS]).split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def is_too_long(code: str, said: str) -> bool:
    """Whether the server means that the conversation is too long for its model. Some have no code for it."""
    return code == CONTEXT_LENGTH_EXCEEDED or "maximum context length" in said


def seconds_of(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; None if there is none, or if it is a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= MAX_RETRY_AFTER else None
