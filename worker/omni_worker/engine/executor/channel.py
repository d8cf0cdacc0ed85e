"""Messages between an executor and its workers: pickled, over pairs of ZeroMQ sockets, large buffers in shared memory.

Pickle is safe here because both ends are processes of one program. It takes any argument and result of a runner. The
sockets have no files: their names are in Linux's abstract namespace, and only this user's processes can connect.
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

from omni_worker.device.host_copies import to_host
from omni_worker.transport.shared_memory import POOLED_BYTES, Block, Reader, Writer

_PLACE = struct.Struct("=IQQ")
_COUNT = struct.Struct("=I")
_FLOATS = (torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_NUMPY_DTYPES = frozenset((*_FLOATS, *_INTEGERS))

# ---- executor → worker


class Execute(NamedTuple):
    """Run a SchedulerOutput; answered by a WorkerReply with the same number."""

    number: int
    output: Any


class CallMethod(NamedTuple):
    """Call a method of the runner; answered by a WorkerReply with the same number."""

    number: int
    method: str
    args: tuple[Any, ...]


class Stop(NamedTuple):
    """End after the current message."""


# ---- worker → executor


class WorkerReply(NamedTuple):
    """The result of a message: a value, or the error that it raised. Number 0 reports the start, with the card."""

    number: int
    value: Any = None
    error: Exception | None = None


def new_endpoint() -> str:
    """A new address for one pair of sockets, without a file."""
    return f"ipc://@omni-{secrets.token_hex(16)}"


def make_socket(context: "zmq.Context[Any]") -> "zmq.Socket[Any]":
    """One end of a pair."""
    socket: zmq.Socket[Any] = context.socket(zmq.PAIR)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    return socket


def encode(message: Any, pool: Writer) -> memoryview:
    """A message as bytes: the pickle, the places of its large buffers in the pool, and the number of these.

    Raises what pickle raises if it cannot be pickled.
    """
    places: list[bytes] = []

    def is_inline(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes <= POOLED_BYTES or (block := pool.put(np.frombuffer(raw, np.uint8))) is None:
            return True
        places.append(_PLACE.pack(*block))
        return False

    stream = BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=is_inline).dump(message)
    except BaseException:
        for place in _PLACE.iter_unpack(b"".join(places)):
            pool.discard(Block(*place))
        raise
    stream.write(b"".join((*places, _COUNT.pack(len(places)))))
    return stream.getbuffer()


def decode(data: bytes | memoryview, pool: Reader) -> Any:
    """The message in `data`. Its large arrays and tensors are views of the pool if that is safe."""
    end = len(data) - _COUNT.size
    (count,) = _COUNT.unpack_from(data, end)
    places = _PLACE.iter_unpack(data[end - count * _PLACE.size : end])
    buffers = [pool.take(Block(*place)) for place in places]
    return pickle.loads(data, buffers=buffers)  # ignores the bytes after the pickle


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    """A tensor as a buffer of its bytes. It arrives on the CPU, contiguous and without its autograd graph."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor.__reduce_ex__(5)
    dtype, shape = tensor.dtype, tuple(tensor.shape)
    if dtype not in _NUMPY_DTYPES:
        tensor = tensor.detach().contiguous().view(-1).view(torch.uint8)
    array: Any = np.ascontiguousarray(to_host(tensor).numpy(force=True))
    return _rebuild_tensor, (pickle.PickleBuffer(array), str(dtype)[len("torch.") :], shape)


def _rebuild_tensor(buffer: Any, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(buffer, dtype=getattr(torch, dtype)).view(shape)


def _reduce_array(array: np.ndarray) -> Any:
    """A contiguous array: numpy exports only these as buffers."""
    return (array if array.flags.forc else array.copy()).__reduce_ex__(5)


class _Pickler(pickle.Pickler):
    dispatch_table = copyreg.dispatch_table | {torch.Tensor: _reduce_tensor, np.ndarray: _reduce_array}
