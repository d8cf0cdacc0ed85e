"""The data protocol between head and replica: one msgpack header, then the raw buffers of its arrays as frames.

A malformed message raises `msgspec.DecodeError` (or ValueError where its frames do not fit its header).
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from omni_worker.requests import GenerationParams, GenerationResult

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


class ArrayHeader(msgspec.Struct, frozen=True):
    """Shape and dtype of the array in one of the frames that follow."""

    shape: tuple[int, ...]
    dtype: str


class Output(msgspec.Struct, frozen=True, tag="output"):
    """A request's result; its images follow, a frame each."""

    id: str
    images: list[ArrayHeader]
    steps: int


class Error(msgspec.Struct, frozen=True, tag="error"):
    """A request failed; the fields of a RequestError."""

    id: str
    kind: str
    message: str
    param: str | None = None
    retry_after: float | None = None


class RpcResult(msgspec.Struct, frozen=True, tag="rpc-result"):
    """The answers of the replica's workers in rank order, or the error."""

    id: str
    answers: list[Any] = []
    error: str | None = None


ToReplica = Add | Abort | Rpc
FromReplica = Progress | Output | Error | RpcResult

encode = msgspec.msgpack.Encoder().encode
decode_to_replica = msgspec.msgpack.Decoder(ToReplica).decode
decode_from_replica = msgspec.msgpack.Decoder(FromReplica).decode


def pack_result(id: str, result: GenerationResult) -> list[Any]:
    """The frames of an Output; the arrays are not copied."""
    images = [np.ascontiguousarray(image) for image in result.images]
    header = Output(id, [ArrayHeader(image.shape, str(image.dtype)) for image in images], result.steps)
    return [encode(header), *(image.data.cast("B") for image in images)]


def unpack_result(header: Output, buffers: Sequence[Any]) -> GenerationResult:
    """The result in an Output's frames, as views of them. Raises ValueError where they do not fit."""
    if len(buffers) != len(header.images):
        raise ValueError(f"{len(buffers)} frames for {len(header.images)} images")
    images = [
        np.frombuffer(buffer, dtype=array.dtype).reshape(array.shape)
        for buffer, array in zip(buffers, header.images, strict=True)
    ]
    return GenerationResult(images=images, steps=header.steps)
