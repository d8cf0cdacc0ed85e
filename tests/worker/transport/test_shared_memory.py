"""A pool of shared memory with both ends in this process."""

import gc
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_worker.engine.executor.channel import decode, encode
from omni_worker.transport.shared_memory import ALIGNMENT, BLOCKS, POOLED_BYTES, Reader, Writer, create_pool
from tests.worker.engine.executor.process_resources import held, left_behind


def open_pool(readers=1, capacity=1 << 24):
    descriptor = create_pool(capacity)
    try:
        return Writer(descriptor, readers), [Reader(descriptor, readers, i) for i in range(readers)]
    finally:
        os.close(descriptor)


def data(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def test_a_block_is_held_as_long_as_anything_is_built_on_it():
    writer, (reader,) = open_pool()
    view = np.frombuffer(reader.take(writer.put(data(100_000))), np.uint8)
    part = torch.from_numpy(view)[10:20].view(2, 5)
    del view
    gc.collect()
    assert writer.blocks_in_use == 1
    writer.put(data(100_000, seed=1))
    assert part.flatten().tolist() == data(100_000)[10:20].tolist(), "the next buffer goes elsewhere"
    del part
    assert writer.blocks_in_use == 1, "the second one, which nobody took"


def test_a_place_is_used_again_and_again():
    writer, (reader,) = open_pool()
    offsets = set()
    for i in range(5_000):
        block = writer.put(data(1000, seed=i % 7))
        offsets.add(block.offset)
        assert bytes(reader.take(block)) == data(1000, seed=i % 7).tobytes()
    assert len(offsets) == 1


def test_a_full_pool_says_so_and_takes_more_once_there_is_room():
    writer, (reader,) = open_pool(capacity=1 << 20)
    views = []
    while (block := writer.put(data(200_000))) is not None:
        views.append(reader.take(block))
    assert len(views) == 5
    del views[2]
    assert writer.put(data(200_000)) is not None
    assert writer.put(data(2_000_000)) is None


def test_as_many_blocks_as_there_are_flags_for():
    writer, _ = open_pool(capacity=BLOCKS * ALIGNMENT * 2)
    assert sum(writer.put(data(1)) is not None for _ in range(BLOCKS + 3)) == BLOCKS


def test_several_readers_each_get_their_own_and_all_must_have_taken_it():
    writer, readers = open_pool(readers=3)
    block = writer.put(data(100_000))
    first, second = readers[0].take(block), readers[2].take(block)
    first[:] = 0
    assert writer.blocks_in_use == 1
    third = readers[1].take(block)
    assert writer.blocks_in_use == 0
    assert bytes(second) == bytes(third) == data(100_000).tobytes()


def test_a_view_outlives_its_reader_and_the_writer():
    writer, (reader,) = open_pool()
    view = np.frombuffer(reader.take(writer.put(data(1000))), np.uint8)
    writer.close()
    reader.close()
    del writer, reader
    gc.collect()
    assert view.tobytes() == data(1000).tobytes()


def test_nothing_is_left_when_all_is_closed():
    before = held()
    writer, readers = open_pool(readers=2)
    readers[0].take(writer.put(data(100_000)))
    for end in (writer, *readers):
        end.close()
    del writer, readers, end
    assert not left_behind(before)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300_000), st.integers(0, 5)), max_size=40))
def test_blocks_never_overlap(steps):
    """Each step puts a buffer into the pool and releases an earlier one."""
    writer, (reader,) = open_pool(capacity=1 << 20)
    held = []
    for i, (size, gone) in enumerate(steps):
        if (block := writer.put(np.full(size, i, np.uint8))) is not None:
            held.append((i, np.frombuffer(reader.take(block), np.uint8)))
        if gone < len(held):
            del held[gone]
        for value, view in held:
            assert (view == value).all()
        assert writer.blocks_in_use == len(held)


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (64, 64, 32)], ids=str)
def test_a_tensor_arrives_as_it_was(dtype, shape):
    writer, (reader,) = open_pool()
    sent = torch.randn(shape).mul(10).to(dtype)
    got = decode(encode({"x": sent}, writer), reader)["x"]
    assert got.dtype == dtype
    assert got.shape == sent.shape
    assert torch.equal(got, sent)
    if got.numel():
        got.view(-1)[0] = 0  # it may be written to


def test_pieces_of_tensors_and_arrays_arrive_whole():
    writer, (reader,) = open_pool()
    sent = torch.randn(300, 400)
    tensors = (sent.T, sent[::2, 1:], sent.requires_grad_(), sent, torch.nn.Parameter(sent.detach()))
    for one, got in zip(tensors, decode(encode(tensors, writer), reader), strict=True):
        assert torch.equal(one, got)
    arrays = (sent.detach().numpy()[::2], np.asfortranarray(sent.detach().numpy()), np.arange(5))
    for one, got in zip(arrays, decode(encode(arrays, writer), reader), strict=True):
        assert np.array_equal(one, got)


def test_only_large_buffers_go_through_the_pool_and_what_does_not_fit_goes_with_the_message():
    writer, (reader,) = open_pool(capacity=1 << 20)
    small, large, huge = (np.zeros(size, np.uint8) for size in (POOLED_BYTES, POOLED_BYTES + 1, 2 << 20))
    assert len(encode(small, writer)) > small.nbytes
    assert writer.blocks_in_use == 0
    message = encode([large, huge], writer)
    assert writer.blocks_in_use == 1
    assert huge.nbytes < len(message) < huge.nbytes + large.nbytes
    got = decode(message, reader)
    assert np.array_equal(got[0], large)
    assert np.array_equal(got[1], huge)
    got[1][0] = 1  # it may be written to


def test_a_message_that_cannot_be_sent_holds_nothing():
    writer, _ = open_pool()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        encode([data(100_000), lambda: None], writer)
    assert writer.blocks_in_use == 0
