"""Messages between an executor and its workers: pickled, over pairs of ZeroMQ sockets, large buffers in shared memory.

Both ends are one program's own processes, so pickle is safe here, and takes whatever a runner is given or gives. The
sockets have no file: their names are in Linux's abstract namespace, and only this user's processes are let in.
"""

import copyreg
import pickle
import secrets
import struct
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
import zmq

from omni_worker.engine.executor.shared_memory import Block, Reader, Writer

POOLED_BYTES = 64 << 10
_PLACE = struct.Struct("=iQQ")
_INLINE = Block(-1, 0, 0)

# ---- executor → worker


class Execute(NamedTuple):
    """Run a SchedulerOutput; answered by an Answer with the same number."""

    number: int
    output: Any


class Call(NamedTuple):
    """Call a method of the runner; answered by an Answer with the same number."""

    number: int
    method: str
    args: tuple[Any, ...]


class Stop(NamedTuple):
    """End, in order."""


# ---- worker → executor


class Answer(NamedTuple):
    """What a message gave: `value`, or the error that it raised. Number 0 answers the start: it gives the card."""

    number: int
    value: Any = None
    error: Exception | None = None


def new_endpoint() -> str:
    """An address for one pair of sockets, in no file system."""
    return f"ipc://@omni-{secrets.token_hex(16)}"


def make_socket(context: "zmq.Context[Any]") -> "zmq.Socket[Any]":
    """One end of a pair."""
    socket: zmq.Socket[Any] = context.socket(zmq.PAIR)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    return socket


def encode(message: Any, pool: Writer) -> list[Any]:
    """The frames of a message. Raises what pickle raises where it cannot be sent."""
    large: list[np.ndarray] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes <= POOLED_BYTES:
            return True
        large.append(np.frombuffer(raw, np.uint8))
        return False

    stream = BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=stays).dump(message)
    if not large:
        return [stream.getbuffer()]
    places, inline = [], []
    for data in large:
        block = pool.put(data)
        places.append(_PLACE.pack(*(block or _INLINE)))
        if block is None:
            inline.append(data)
    return [stream.getbuffer(), b"".join(places), *inline]


def decode(frames: list[Any], pool: Reader) -> Any:
    """The message in `frames`. Its arrays and CPU tensors are views of the pool where that is safe."""
    if len(frames) == 1:
        return pickle.loads(frames[0])
    payload, places, *inline = frames
    rest = iter(inline)
    blocks = (Block(*place) for place in _PLACE.iter_unpack(places))
    return pickle.loads(
        payload, buffers=[pool.take(block) if block.number >= 0 else bytearray(next(rest)) for block in blocks]
    )


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    """A tensor as a buffer of its bytes: it arrives on the CPU, contiguous and without its graph."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor.__reduce_ex__(5)
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return _rebuild_tensor, (pickle.PickleBuffer(flat.numpy()), tensor.dtype, tuple(tensor.shape))


def _rebuild_tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)


def _reduce_array(array: np.ndarray) -> Any:
    """An array in one piece, which alone numpy gives out as a buffer."""
    return (array if array.flags.forc else array.copy()).__reduce_ex__(5)


class _Pickler(pickle.Pickler):
    dispatch_table = copyreg.dispatch_table | {torch.Tensor: _reduce_tensor, np.ndarray: _reduce_array}
