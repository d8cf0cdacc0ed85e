"""The data protocol between head and replica: a msgpack header, then the buffers of its arrays as frames.

If both ends share memory, large arrays go there instead, and the header names their place.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec
import numpy as np

from omni_worker.coordinator.loras import WantedLoras
from omni_worker.errors import ErrorKind
from omni_worker.replica.wire.link import Link, Offer, Place, PoolReply
from omni_worker.requests import GeneratedText, GenerationParams, GenerationResult
from omni_worker.transport.shared_memory import POOLED_BYTES

DTYPE = re.compile(r"[<>|=]?[biufc][0-9]{1,2}")
"""The dtypes of arrays in messages: numbers. numpy would also parse expressions and structures."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

# ---- head → replica


class Trace(msgspec.Struct, frozen=True):
    """The trace that a run belongs to: its request, its stage, and the parent span as W3C trace context headers."""

    request: str
    stage: str
    carrier: dict[str, str]


class Add(msgspec.Struct, frozen=True, tag="add", omit_defaults=True):
    """Run a request. The replica answers it with one Output or Error.

    A request that is not `refusable` is accepted even if the queue is full, because another replica had accepted it.
    """

    id: str
    params: GenerationParams
    refusable: bool = True
    trace: Trace | None = None


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Abort a request. The replica answers with an Error of kind `aborted`, unless the request has already ended."""

    id: str


class HandBack(msgspec.Struct, frozen=True, tag="hand-back"):
    """Another replica is up: a draining replica must refuse the requests that have not begun there."""


class Rpc(msgspec.Struct, frozen=True, tag="rpc"):
    """Call a method of the replica's runners between two steps. `timeout` (seconds) includes the wait."""

    id: str
    method: str
    args: list[Any] = []
    timeout: float = 10.0


# ---- replica → head


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """A request has done `step` of its `total_steps`."""

    id: str
    step: int
    total_steps: int


class Partial(msgspec.Struct, frozen=True, tag="partial"):
    """A partial result: the text since the last such message, or a preview that replaces the last one."""

    id: str
    written: GeneratedText | None = None
    preview: list[np.ndarray] = []


class Output(msgspec.Struct, frozen=True, tag="output"):
    """A request's result."""

    id: str
    result: GenerationResult


class Error(msgspec.Struct, frozen=True, tag="error"):
    """A request failed. The fields are those of a RequestError."""

    id: str
    kind: ErrorKind
    message: str
    param: str | None = None
    retry_after: Seconds | None = None
    code: str | None = None


class _Ending(msgspec.Struct, frozen=True):
    """What an Output and an Error have in common."""

    type: Literal["output", "error"]
    id: str


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Sent every second to each head that has requests here, so that each end notices if the other is gone."""


class RpcResult(msgspec.Struct, frozen=True, tag="rpc-result"):
    """The results of the replica's workers in rank order, or the error."""

    id: str
    answers: list[Any] = []
    error: str | None = None


ToReplica = Add | Abort | HandBack | Rpc | WantedLoras | Offer | PoolReply
FromReplica = Progress | Partial | Output | Error | Alive | RpcResult | Offer | PoolReply


class Packed(NamedTuple):
    """An encoded message.

    places: its arrays in shared memory
    is_large: whether one of its frames holds a large array
    """

    frames: list[Any]
    places: list[Place]
    is_large: bool


def pack(message: ToReplica | FromReplica) -> list[Any]:
    """Encode a message without shared memory: a header, then the array buffers, which are not copied."""
    return pack_shared(message, None).frames


def pack_shared(message: ToReplica | FromReplica, link: Link | None) -> Packed:
    """Encode a message. Copies its large arrays into the shared memory of `link`, as far as there is room.

    Raises msgspec's error if a value cannot be encoded; then no place in shared memory stays in use.
    """
    buffers: list[Any] = []
    places: list[Place] = []
    is_large = False

    def header(value: Any) -> Any:
        nonlocal is_large
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise NotImplementedError(f"a {type(value).__name__} cannot be sent")
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        if data.nbytes > POOLED_BYTES:
            if link is not None and (place := link.put(data)) is not None:
                places.append(place)
                return value.shape, value.dtype.str, place
            is_large = True
        buffers.append(data.data)
        return value.shape, value.dtype.str, len(buffers) - 1

    try:
        encoded = msgspec.msgpack.encode(message, enc_hook=header)
    except BaseException:
        for place in places:
            assert link is not None
            link.discard(place)
        raise
    return Packed([encoded, *buffers], places, is_large)


def unpack_to_replica(frames: Sequence[Any], link: Link | None = None) -> ToReplica:
    """Decode a message. Its arrays are views of the frames, or of the memory shared over `link`.

    Raises msgspec.MsgspecError or ValueError if the message is malformed.
    """
    return cast(ToReplica, _unpack(frames, ToReplica, link))


def unpack_from_replica(frames: Sequence[Any], link: Link | None = None) -> FromReplica:
    """Decode a message. Its arrays are views of the frames, or of the memory shared over `link`.

    Raises msgspec.MsgspecError or ValueError if the message is malformed.
    """
    return cast(FromReplica, _unpack(frames, FromReplica, link))


def ended_request(frames: Sequence[Any]) -> str | None:
    """The id of the request that a malformed message from a replica answers; None if it answers none."""
    try:
        return msgspec.msgpack.decode(frames[0], type=_Ending).id
    except (msgspec.MsgspecError, ValueError, RecursionError, IndexError):
        return None


def _unpack(frames: Sequence[Any], kind: Any, link: Link | None) -> Any:
    if not frames:
        raise ValueError("a message without frames")

    def array(type: Any, value: Any) -> Any:
        shape, name, place = value
        if not DTYPE.fullmatch(name):
            raise ValueError(f"no array has the dtype {name!r:.80}")
        dtype = np.dtype(name)
        if isinstance(place, list):
            if link is None:
                raise ValueError("the header names a place in shared memory, and none is shared")
            return np.frombuffer(link.take(Place(*place)), dtype).reshape(shape)
        if not 0 <= place < len(frames) - 1:
            raise ValueError(f"the header names array {place} of {len(frames) - 1}")
        if 0 in shape:
            return np.empty(shape, dtype)  # numpy reads nothing from an empty buffer
        return np.frombuffer(frames[place + 1], dtype).reshape(shape)

    try:
        return msgspec.msgpack.decode(frames[0], type=kind, dec_hook=array)
    except (TypeError, OverflowError) as error:  # numpy raises these for an invalid shape or dtype
        raise ValueError(f"a malformed array: {error}") from error
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
