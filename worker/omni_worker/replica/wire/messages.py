"""The data protocol between head and replica: one msgpack header, then the raw buffers of its arrays as frames.

Where both ends share memory, large arrays are put there, and the header says where.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from omni_worker.replica.wire.link import Link, Offer, Place, PoolReply
from omni_worker.requests import GeneratedText, GenerationParams, GenerationResult
from omni_worker.transport.shared_memory import POOLED_BYTES

# ---- head → replica


class Trace(msgspec.Struct, frozen=True):
    """What a run is told of with, where it is: the request and the stage that it is of, and whose part it is (W3C)."""

    request: str
    stage: str
    carrier: dict[str, str]


class Add(msgspec.Struct, frozen=True, tag="add", omit_defaults=True):
    """Run a request. One Output or Error will answer it. One that is not `refusable` is taken though the queue be full:
    another replica had taken it already."""

    id: str
    params: GenerationParams
    refusable: bool = True
    trace: Trace | None = None


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """End a request; it is answered by an Error of kind `aborted`, unless it had ended already."""

    id: str


class HandBack(msgspec.Struct, frozen=True, tag="hand-back"):
    """Others are up: a replica that drains is to refuse what only waits there, as if it had just come."""


class Rpc(msgspec.Struct, frozen=True, tag="rpc"):
    """Call a method of the runner between two steps; `timeout` in seconds covers the wait."""

    id: str
    method: str
    args: list[Any] = []
    timeout: float = 10.0


# ---- replica → head


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """A request did `step` of its `total_steps`."""

    id: str
    step: int
    total_steps: int


class Partial(msgspec.Struct, frozen=True, tag="partial"):
    """What a request made since the last such message: text that was written, or a preview in place of the last."""

    id: str
    written: GeneratedText | None = None
    preview: list[np.ndarray] = []


class Output(msgspec.Struct, frozen=True, tag="output"):
    """A request's result."""

    id: str
    result: GenerationResult


class Error(msgspec.Struct, frozen=True, tag="error"):
    """A request failed; the fields of a RequestError."""

    id: str
    kind: str
    message: str
    param: str | None = None
    retry_after: float | None = None


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Told every second to whoever has requests here: so both ends know that the other one is there."""


class RpcResult(msgspec.Struct, frozen=True, tag="rpc-result"):
    """The answers of the replica's workers in rank order, or the error."""

    id: str
    answers: list[Any] = []
    error: str | None = None


ToReplica = Add | Abort | HandBack | Rpc | Offer | PoolReply
FromReplica = Progress | Partial | Output | Error | Alive | RpcResult | Offer | PoolReply


class Packed(NamedTuple):
    """A message as it is sent. `places` are those of its arrays in shared memory; `is_large`: one of its frames is."""

    frames: list[Any]
    places: list[Place]
    is_large: bool


def pack(message: ToReplica | FromReplica) -> list[Any]:
    """The message's frames: a header, then the array buffers, which are not copied."""
    return pack_shared(message, None).frames


def pack_shared(message: ToReplica | FromReplica, link: Link | None) -> Packed:
    """The message; its large arrays are copied into shared memory where `link` has room for them.

    Raises what msgspec raises for a value that cannot be sent.
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
    """The message in these frames; its arrays are views of them, or of the memory shared over `link`.

    Raises msgspec.MsgspecError or ValueError.
    """
    return cast(ToReplica, _unpack(frames, ToReplica, link))


def unpack_from_replica(frames: Sequence[Any], link: Link | None = None) -> FromReplica:
    """The message in these frames; its arrays are views of them, or of the memory shared over `link`.

    Raises msgspec.MsgspecError or ValueError.
    """
    return cast(FromReplica, _unpack(frames, FromReplica, link))


def _unpack(frames: Sequence[Any], kind: Any, link: Link | None) -> Any:
    if not frames:
        raise ValueError("a message without frames")

    def array(type: Any, value: Any) -> Any:
        shape, name, place = value
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
    except (TypeError, OverflowError) as error:  # what numpy raises for a shape or a dtype that is none
        raise ValueError(f"a malformed array: {error}") from error
