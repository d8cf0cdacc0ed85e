"""The messages that wait to be sent to one peer. Their number does not grow because the peer does not read.

Updates about a request are merged: only the latest progress and the latest preview wait, and partial texts become one
text. Once a request has an answer, its progress is dropped. Answers are never merged or dropped: there is one for each
request, and `is_full` says when the peer must read answers before it may ask for more.
"""

from dataclasses import dataclass, field

import numpy as np

from omni_worker.replica.wire.messages import Alive, Error, FromReplica, Output, Partial, Progress, RpcResult
from omni_worker.requests import GeneratedText, TokenLogprob
from omni_worker.transport.sockets import MAX_RESULT_BYTES

MAX_BYTES = 256 << 20
MAX_ANSWERS = 1_000
MAX_REFUSALS = 10 * MAX_ANSWERS
MessageKey = tuple[str, str]
"""Messages with the same key are merged: their kind, and the request id or the number of the answer."""


@dataclass
class _MergedPartials:
    """A request's partial results that have not been sent."""

    id: str
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    preview: list[np.ndarray] = field(default_factory=list)
    has_text: bool = False

    def add(self, partial: Partial) -> None:
        if partial.written is not None:
            self.has_text = True
            self.texts.append(partial.written.text)
            self.tokens += partial.written.tokens
            self.logprobs += partial.written.logprobs
        if partial.preview:
            self.preview = partial.preview

    def message(self) -> Partial:
        written = GeneratedText(text="".join(self.texts), tokens=self.tokens, logprobs=self.logprobs)
        return Partial(self.id, written if self.has_text else None, self.preview)


class Outbox:
    """Messages to one peer, in the order in which the first message with each key was put."""

    def __init__(self) -> None:
        self._waiting: dict[MessageKey, FromReplica | _MergedPartials] = {}
        self._answers = 0
        self._bytes = 0
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so many answers wait that the peer's new requests must be refused."""
        return self._answers >= MAX_ANSWERS or self._bytes >= MAX_BYTES

    @property
    def is_overrun(self) -> bool:
        """Whether the peer continued to ask so often that it gets no answers at all, not even refusals."""
        return self._answers >= MAX_REFUSALS

    def put(self, message: FromReplica) -> None:
        """Add a message. It replaces, or is merged with, a waiting message with the same key."""
        if isinstance(message, Partial):
            partials = self._waiting.setdefault(("partial", message.id), _MergedPartials(message.id))
            assert isinstance(partials, _MergedPartials)
            partials.add(message)
        elif isinstance(message, Progress):
            self._waiting["progress", message.id] = message
        elif isinstance(message, Alive):
            self._waiting["alive", ""] = message
        else:
            message = within_limit(message)
            if isinstance(message, Output | Error):
                self._waiting.pop(("progress", message.id), None)
            self._serial += 1
            self._waiting["answer", str(self._serial)] = message
            self._answers += 1
            self._bytes += _size_of(message)

    def pop(self) -> FromReplica:
        """Remove and return the next message to send. Raises StopIteration if none waits."""
        message = self._waiting.pop(next(iter(self._waiting)))
        if isinstance(message, _MergedPartials):
            return message.message()
        if not isinstance(message, Progress | Alive):
            self._answers -= 1
            self._bytes -= _size_of(message)
        return message


def _size_of(message: FromReplica) -> int:
    """The bytes of a message's arrays; everything else is small."""
    if isinstance(message, Output):
        result = message.result
        samples = [] if result.sound is None else [result.sound.samples]
        return sum(array.nbytes for array in (*result.images, *samples, *result.embeddings.values()))
    return 0


def within_limit(message: FromReplica) -> FromReplica:
    """The message, or an error in place of a result that is too large to be sent.

    A larger message would close the connection, and with it lose the requests of others.
    """
    size = _size_of(message)
    if size <= MAX_RESULT_BYTES or not isinstance(message, Output):
        return message
    text = f"the result has {size / 2**30:.1f} GiB, more than the {MAX_RESULT_BYTES / 2**30:g} GiB that can be sent"
    return Error(message.id, "invalid", f"{text}: ask for fewer frames or seconds, or for a smaller size")


def replacement_for(message: FromReplica, error: Exception) -> FromReplica | None:
    """The answer to send in place of one that cannot be encoded; None if the message is not an answer."""
    text = f"the answer cannot be sent: {error}"
    if isinstance(message, RpcResult):
        return RpcResult(message.id, error=text)
    return Error(message.id, "failed", text) if isinstance(message, Output) else None
