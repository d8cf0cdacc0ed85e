"""The data protocol between head and replica: one msgpack header, then the raw buffers of its arrays as frames."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np

from omni_worker.requests import GenerationParams, GenerationResult, Written

# ---- head → replica


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Run a request. One Output or Error will answer it. One that is not `refusable` is taken though the queue be full:
    another replica had taken it already."""

    id: str
    params: GenerationParams
    refusable: bool = True


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
    written: Written | None = None
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


ToReplica = Add | Abort | HandBack | Rpc
FromReplica = Progress | Partial | Output | Error | Alive | RpcResult


def pack(message: ToReplica | FromReplica) -> list[Any]:
    """The message's frames: a header, then the array buffers, which are not copied."""
    buffers: list[Any] = []

    def header(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise NotImplementedError(f"a {type(value).__name__} cannot be sent")
        array = np.ascontiguousarray(value)
        buffers.append(array.reshape(-1).view(np.uint8).data)
        return array.shape, array.dtype.str, len(buffers) - 1

    return [msgspec.msgpack.encode(message, enc_hook=header), *buffers]


def unpack_to_replica(frames: Sequence[Any]) -> ToReplica:
    """The message in these frames; its arrays are views of them. Raises msgspec.MsgspecError or ValueError."""
    return cast(ToReplica, _unpack(frames, ToReplica))


def unpack_from_replica(frames: Sequence[Any]) -> FromReplica:
    """The message in these frames; its arrays are views of them. Raises msgspec.MsgspecError or ValueError."""
    return cast(FromReplica, _unpack(frames, FromReplica))


def _unpack(frames: Sequence[Any], kind: Any) -> Any:
    if not frames:
        raise ValueError("a message without frames")

    def array(type: Any, value: Any) -> Any:
        shape, dtype, number = value
        if not 0 <= number < len(frames) - 1:
            raise ValueError(f"the header names array {number} of {len(frames) - 1}")
        return np.frombuffer(frames[number + 1], np.dtype(dtype)).reshape(shape)

    try:
        return msgspec.msgpack.decode(frames[0], type=kind, dec_hook=array)
    except (TypeError, OverflowError) as error:  # what numpy raises for a shape or a dtype that is none
        raise ValueError(f"a malformed array: {error}") from error
