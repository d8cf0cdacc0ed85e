"""What one peer is still to be told. It does not grow because that peer does not read.

News of a request replace each other: of its progress and its previews the latest remains, what it wrote becomes one
piece; once it has an answer, its progress is no news. Answers stay; there is one for each request, and `is_full` says
when a peer that leaves so many unread is to get no more of them.
"""

from dataclasses import dataclass, field

import numpy as np

from omni_worker.replica.wire.messages import Alive, Error, FromReplica, Output, Partial, Progress, RpcResult
from omni_worker.requests import GeneratedText, TokenLogprob

MOST_BYTES = 256 << 20
MOST_ANSWERS = 1_000
MOST_REFUSALS = 10 * MOST_ANSWERS
StreamKey = tuple[str, str]


@dataclass
class _Pieces:
    """A request's partial results since the last that was sent."""

    id: str
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    preview: list[np.ndarray] = field(default_factory=list)
    is_written: bool = False

    def add(self, partial: Partial) -> None:
        if partial.written is not None:
            self.is_written = True
            self.texts.append(partial.written.text)
            self.tokens += partial.written.tokens
            self.logprobs += partial.written.logprobs
        if partial.preview:
            self.preview = partial.preview

    def message(self) -> Partial:
        written = GeneratedText(text="".join(self.texts), tokens=self.tokens, logprobs=self.logprobs)
        return Partial(self.id, written if self.is_written else None, self.preview)


class Outbox:
    """Messages to one peer, in the order in which the first of each kind came."""

    def __init__(self) -> None:
        self._waiting: dict[StreamKey, FromReplica | _Pieces] = {}
        self._answers = 0
        self._bytes = 0
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that the peer is to ask for nothing more."""
        return self._answers >= MOST_ANSWERS or self._bytes >= MOST_BYTES

    @property
    def is_overrun(self) -> bool:
        """Whether it asked for more nevertheless, so often that it is not to be answered."""
        return self._answers >= MOST_REFUSALS

    def put(self, message: FromReplica) -> None:
        """Add a message, or renew the one that it makes obsolete."""
        if isinstance(message, Partial):
            pieces = self._waiting.setdefault(("partial", message.id), _Pieces(message.id))
            assert isinstance(pieces, _Pieces)
            pieces.add(message)
        elif isinstance(message, Progress):
            self._waiting["progress", message.id] = message
        elif isinstance(message, Alive):
            self._waiting["alive", ""] = message
        else:
            if isinstance(message, Output | Error):
                self._waiting.pop(("progress", message.id), None)
            self._serial += 1
            self._waiting["answer", str(self._serial)] = message
            self._answers += 1
            self._bytes += _bytes_of(message)

    def pop(self) -> FromReplica:
        """The next to send. Raises StopIteration where there is none."""
        message = self._waiting.pop(next(iter(self._waiting)))
        if isinstance(message, _Pieces):
            return message.message()
        if not isinstance(message, Progress | Alive):
            self._answers -= 1
            self._bytes -= _bytes_of(message)
        return message


def _bytes_of(message: FromReplica) -> int:
    """The size of what is large in it."""
    if isinstance(message, Output):
        return sum(array.nbytes for array in (*message.result.images, *message.result.embeddings.values()))
    return 0


def failure_of(message: FromReplica, error: Exception) -> FromReplica | None:
    """What to tell instead of a message that cannot be sent."""
    text = f"the answer cannot be sent: {error}"
    if isinstance(message, RpcResult):
        return RpcResult(message.id, error=text)
    return Error(message.id, "failed", text) if isinstance(message, Output) else None
