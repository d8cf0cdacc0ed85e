"""Messages with arrays, in frames and in shared memory, and headers that do not fit their arrays."""

import gc
import sys
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from omni_worker.replica.wire import messages
from omni_worker.replica.wire.link import Link, Place
from omni_worker.replica.wire.messages import (
    pack,
    pack_shared,
    unpack_from_replica,
    unpack_to_replica,
)
from tests.worker.replica.wire.arrays import MIB, arrived, linked, message, same

DTYPES = st.one_of(arrays.boolean_dtypes(), arrays.integer_dtypes(endianness="?"), arrays.unsigned_integer_dtypes(),
                   arrays.floating_dtypes(endianness="?"), arrays.complex_number_dtypes())  # fmt: skip


@st.composite
def any_arrays(draw):
    """Arrays of any dtype and shape, including empty and 0-dimensional ones, and views in any order."""
    array = draw(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([-2, -1, 2]))]
    return array.T if draw(st.booleans()) else array


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=3), any_arrays(), max_size=4), st.booleans())
def test_whatever_arrays_are_sent_arrive_as_they_were(given, shares):
    near, far = linked(MIB) if shares else (None, None)
    with mock.patch.object(messages, "POOLED_BYTES", 16):
        got, _ = arrived(given, near, far)
    assert given.keys() == got.keys()
    assert all(same(given[name], got[name]) for name in given)


@pytest.mark.parametrize("array", [
    pytest.param(np.arange(40_000, dtype="<f8").reshape(200, 200), id="floats"),
    pytest.param(np.arange(90_000, dtype="<f4").reshape(300, 300).T[::2, ::-1], id="a view out of order"),
    pytest.param(np.random.default_rng(0).random(100_000) < 0.5, id="booleans"),
    pytest.param(np.arange(40_000, dtype=">i8"), id="the other byte order"),
])  # fmt: skip
def test_large_arrays_cross_in_shared_memory_and_may_be_written_to(array):
    near, far = linked()
    got, packed = arrived({"a": array, "small": array[:3]}, near, far)
    assert len(packed.frames) == 2
    assert not packed.is_large
    assert same(array, got["a"])
    assert same(array[:3], got["small"])
    assert near.blocks_in_use == 1
    got["a"][...] = 0
    del got
    gc.collect()
    assert near.blocks_in_use == 0


def test_what_finds_no_room_goes_as_a_frame_and_places_are_used_again():
    near, far = linked(capacity=2 * MIB)
    array = np.ones(MIB, np.uint8)
    first, _ = arrived({"a": array}, near, far)
    second, packed = arrived({"a": array}, near, far)
    assert packed.is_large
    assert same(array, second["a"])
    del first
    gc.collect()
    for _ in range(2_000):
        assert not arrived({"a": array}, near, far)[1].is_large


def test_a_message_that_cannot_be_sent_holds_no_place():
    near, _ = linked()
    with pytest.raises(NotImplementedError):
        pack_shared(message(a=np.ones(MIB, np.uint8), b=np.array([object()])), near)
    assert near.blocks_in_use == 0


def test_places_that_are_none_are_refused_and_nothing_dies():
    near, far = linked()
    place = pack_shared(message(a=np.ones(MIB, np.uint8)), near).places[0]
    for wrong in (
        place._replace(pool=place.pool + 1), place._replace(number=-1), place._replace(number=10**6),
        place._replace(number=0), place._replace(offset=0), place._replace(offset=2**62), place._replace(size=-1),
        place._replace(size=2**63), place._replace(size=64 * MIB),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"pool|holds"):
            far.take(wrong)
    for header in (["a"], [1, 2, 3, 4, 5], [place.pool, None, 0, 0], [1.5] * 4, [], [[]] * 4):
        raw = msgspec.msgpack.decode(pack(message(a=np.ones(3)))[0])
        raw["params"]["embeddings"]["a"][2] = header
        with pytest.raises((ValueError, msgspec.MsgspecError)):
            unpack_to_replica([msgspec.msgpack.encode(raw)], far)
        with pytest.raises((ValueError, msgspec.MsgspecError)):
            unpack_to_replica([msgspec.msgpack.encode(raw)])
    view = far.take(place)
    with pytest.raises(ValueError, match="holds nothing"):
        far.take(place)
    assert view.sum() == MIB
    del view
    gc.collect()
    with pytest.raises(ValueError, match="holds nothing"):
        far.take(place)
    near.discard(place)
    near.discard(place._replace(pool=0))
    assert near.blocks_in_use == 0


def test_a_pool_is_never_read_for_what_an_earlier_connection_left_unsent():
    near, far = linked()
    stale = pack_shared(message(a=np.ones(MIB, np.uint8)), near).places[0]
    later = Link("far", capacity=MIB * 4)
    far.on_offer(later.offer())
    with pytest.raises(ValueError, match="no pool"):
        far.take(Place(*stale))


def test_dtypes_that_are_no_numbers_are_refused_before_numpy_reads_them():
    raw = msgspec.msgpack.decode(pack(message(a=np.ones(3)))[0])
    structures = ("(1 2)f4", "(99999999999,)f4", "f4,f4", "(" * 5000 + "f4", [["a", "f4"]])
    for name in ("O", "S8", "M8[s]", "", 5, None, *structures):
        raw["params"]["embeddings"]["a"][1] = name
        with pytest.raises((ValueError, msgspec.MsgspecError)):
            unpack_to_replica([msgspec.msgpack.encode(raw), bytes(24)])


@pytest.fixture
def usual_recursion_limit():
    """The one of a replica, whatever the libraries of other tests have made of it."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("depth", [1_000, 100_000, 10_000_000])
def test_values_that_are_nested_deeply_are_malformed(depth, usual_recursion_limit):
    head = b"\x84\xa4type\xa3rpc\xa2id\xa1x\xa6method\xa5stats\xa4args"
    answers = b"\x83\xa4type\xaarpc-result\xa2id\xa1x\xa7answers"
    for unpack, first in ((unpack_to_replica, head), (unpack_from_replica, answers)):
        with pytest.raises((ValueError, msgspec.MsgspecError)):
            unpack([first + b"\x91" * depth + b"\x90"])
