"""Two connected links, and messages with arrays, for the tests of the wire."""

from omni_worker.replica.wire.link import Link
from omni_worker.replica.wire.messages import (
    Add,
    pack_shared,
    unpack_to_replica,
)
from omni_worker.requests import GenerationParams

MIB = 1 << 20


def linked(capacity=32 * MIB):
    """Two links that share memory."""
    near, far = Link("far", capacity=capacity), Link("near")
    near.on_reply(far.on_offer(near.offer()))
    return near, far


def message(**embeddings):
    return Add("1", GenerationParams(prompt="x", embeddings=embeddings))


def arrived(given, near=None, far=None):
    """Send arrays from `near` to `far`. Returns the arrays that arrive, and the encoded message."""
    packed = pack_shared(message(**given), near)
    frames = [bytes(frame) for frame in packed.frames]
    return unpack_to_replica(frames, far).params.embeddings, packed


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
