"""Between head and replica: arrays in messages and in shared memory, ends that do not read, and ends that lie."""

import asyncio
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from omni_worker.replica.wire import messages
from omni_worker.replica.wire import outbox as outbox_module
from omni_worker.replica.wire.link import Link, Offer, Place, PoolReply
from omni_worker.replica.wire.messages import (
    Add,
    Alive,
    Output,
    Partial,
    Progress,
    Rpc,
    pack,
    pack_shared,
    unpack_to_replica,
)
from omni_worker.requests import GeneratedText, GenerationParams, GenerationResult
from omni_worker.transport.keys import CurveKeys
from omni_worker.transport.shared_memory import SEALS, create_pool
from tests.worker.engine.executor.process_resources import descriptors, mappings
from tests.worker.replica.ends import Heard, ask, eventually, serving

MIB = 1 << 20


def linked(capacity=32 * MIB):
    """Both ends of a connection that shares memory."""
    near, far = Link("far", capacity=capacity), Link("near")
    near.on_answer(far.on_offer(near.offer()))
    return near, far


def message(**embeddings):
    return Add("1", GenerationParams(prompt="x", embeddings=embeddings))


def arrived(given, near=None, far=None):
    """What the other end makes of the arrays."""
    packed = pack_shared(message(**given), near)
    frames = [bytes(frame) for frame in packed.frames]
    return unpack_to_replica(frames, far).params.embeddings, packed


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


DTYPES = st.one_of(arrays.boolean_dtypes(), arrays.integer_dtypes(endianness="?"), arrays.unsigned_integer_dtypes(),
                   arrays.floating_dtypes(endianness="?"), arrays.complex_number_dtypes())  # fmt: skip


@st.composite
def any_arrays(draw):
    """Of any type and shape, empty ones and numbers among them, and views of every order."""
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
    assert near.blocks_held == 1
    got["a"][...] = 0
    del got
    gc.collect()
    assert near.blocks_held == 0


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
    assert near.blocks_held == 0


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
    assert near.blocks_held == 0


def test_what_was_taken_outlives_both_ends_and_later_messages_are_refused():
    near, far = linked()
    places = pack_shared(message(a=np.ones(MIB, np.uint8), b=np.ones(MIB, np.uint8)), near).places
    view = np.frombuffer(far.take(places[0]), np.uint8)
    near.close()
    far.close()
    near.close()
    assert view.sum() == MIB
    with pytest.raises(ValueError, match="no pool"):
        far.take(places[1])
    assert near.put(view) is None
    assert near.offer() is None
    near.on_answer(PoolReply(places[0].pool, True))
    del view
    gc.collect()


def hostile_offers():
    yield "another process", lambda good: msgspec.structs.replace(good, pid=1)
    yield "no process", lambda good: msgspec.structs.replace(good, pid=-1)
    yield "a huge number", lambda good: msgspec.structs.replace(good, pid=2**62)
    yield "another file", lambda good: msgspec.structs.replace(good, descriptor=0)
    yield "another name", lambda good: msgspec.structs.replace(good, name=good.name + "0")
    yield "a path", lambda good: msgspec.structs.replace(good, name="omni-pool-/../../etc/passwd")


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in hostile_offers()])
def test_an_offer_that_is_not_what_it_says_is_declined(change):
    near, far = Link("far", capacity=MIB), Link("near")
    good = near.offer()
    assert far.on_offer(change(good)) == PoolReply(good.pool, False)
    near.on_answer(PoolReply(good.pool + 1, True))
    near.on_answer(PoolReply(good.pool, False))
    near.on_answer(PoolReply(good.pool, True))
    assert near.put(np.ones(100_000, np.uint8)) is None
    assert not near.has_pools
    assert not far.has_pools


def test_no_file_is_opened_that_could_block_or_shrink():
    read, write = os.pipe()
    unsealed = os.memfd_create("omni-pool-1", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, MIB)
    empty = create_pool(0, "omni-pool-2")
    for descriptor, name in ((read, "omni-pool-0"), (unsealed, "omni-pool-1"), (empty, "omni-pool-2")):
        assert not Link("near").on_offer(Offer(1, os.getpid(), descriptor, name)).is_open
    for descriptor in (read, write, unsealed, empty):
        os.close(descriptor)
    assert SEALS


STRANGER = """
import os, sys
from omni_worker.replica.wire.link import Link, Offer
if sys.argv[5] == "another user":
    os.setuid(65534)
print(Link("near").on_offer(Offer(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])).is_open)
"""


@pytest.mark.parametrize("who", ["this user", "another user", "another namespace"])
def test_only_who_can_reach_the_memory_says_so(who):
    offer = Link("far").offer()
    command = [sys.executable, "-c", STRANGER, *map(str, (offer.pool, offer.pid, offer.descriptor, offer.name)), who]
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if who == "another namespace":
        if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
            pytest.skip("no namespace can be made here")
        command = apart + command
    elif who == "another user" and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(who == "this user")]


# ---- both ends, over a socket


@pytest.mark.parametrize("keys", [None, CurveKeys.of(b"s" * 32)], ids=["in the clear", "encrypted"])
def test_both_ways_share_memory_after_the_first_and_places_are_let_go(keys):
    async def body():
        async with serving(keys) as (server, _, connect):
            client = connect()
            array = np.random.default_rng(0).integers(0, 256, MIB, np.uint8)
            server.engine.keeps = True
            for number in range(5):
                result = await ask(client, str(number), "echo", a=array)
                assert same(array, result.embeddings["a"])
                await asyncio.sleep(0.05)
            (peer,) = server._outgoing._peers.values()
            assert peer.link.blocks_held == 1, "the last answer, which is still here"
            assert 3 <= client._link.blocks_held <= 4, "what the engine keeps"
            del result
            server.engine.kept.clear()
            gc.collect()
            await eventually(lambda: peer.link.blocks_held == client._link.blocks_held == 0)

    asyncio.run(body())


def test_an_end_that_shares_no_memory_gets_and_gives_the_same_in_messages():
    async def body():
        async with serving() as (server, _, connect):
            client = connect(shares_memory=False)
            array = np.random.default_rng(0).integers(0, 256, (1000, 1001), np.uint8)
            for number in range(4):
                assert same(array, (await ask(client, str(number), "echo", a=array)).embeddings["a"])
            assert not any(peer.link.has_pools for peer in server._outgoing._peers.values())

    asyncio.run(body())


def test_many_large_requests_at_once_are_answered_and_all_differ():
    async def body():
        async with serving() as (_, _, connect):
            client = connect()
            sent = [np.full(3 * MIB, number, np.uint8) for number in range(80)]
            got = await asyncio.gather(*(ask(client, str(i), "echo", a=array) for i, array in enumerate(sent)))
            assert all(same(array, one.embeddings["a"]) for array, one in zip(sent, got, strict=True))

    asyncio.run(body())


HEAD = """
import asyncio, sys
import numpy as np
from omni_worker.replica.client import ReplicaClient
from tests.worker.replica.ends import Heard, ask

async def main():
    client = ReplicaClient(f"tcp://127.0.0.1:{sys.argv[1]}", lambda is_open: None)
    result = [await ask(client, f"first-{i}", "echo", a=np.ones(1 << 20, np.uint8)) for i in range(3)]
    print("ready", flush=True)
    sys.stdin.readline()
    heard = Heard()
    asked = asyncio.create_task(ask(client, "long", sys.argv[2], heard))
    while not heard.pieces:
        await asyncio.sleep(0.01)
    print("begun", flush=True)
    await asked
    whole = "".join(f"{i} " for i in range(int(sys.argv[2].split()[-1])))
    print(heard.text == whole, heard.pieces, len(heard.previews))

asyncio.run(main())
"""


class HeadProcess:
    """A head in a process of its own."""

    def __init__(self, port, prompt):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen([sys.executable, "-c", HEAD, str(port), prompt], **pipes)

    async def line(self):
        return (await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 60)).split()

    def go(self):
        self.process.stdin.write("\n")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.processes
def test_a_head_that_is_stopped_grows_no_queue_holds_up_nobody_and_misses_nothing():
    async def body():
        async with serving() as (server, port, connect):
            head, other = HeadProcess(port, "write 3000"), connect()
            try:
                assert await head.line() == ["ready"]
                await ask(other, "warm", "write 100")
                before = resident()
                head.go()
                assert await head.line() == ["begun"]
                head.process.send_signal(signal.SIGSTOP)
                (peer,) = {server._askers[id] for id in server._askers}
                heard = Heard()
                await ask(other, "other", "write 300", heard)
                assert heard.text == "".join(f"{i} " for i in range(300))
                await eventually(lambda: "long" not in server._askers)
                assert len(server._outgoing.peer(peer).outbox) < 10
                assert resident() - before < 300 * MIB, "of which 300 previews of 1 MiB were made"
                head.process.send_signal(signal.SIGCONT)
                whole, pieces, previews = await head.line()
                assert whole == "True"
                assert int(pieces) < 3000
                assert int(previews) < 300
            finally:
                head.close()

    asyncio.run(body())


@pytest.mark.processes
def test_a_head_that_is_killed_leaves_nothing_behind():
    async def body():
        async with serving() as (server, port, _):
            before = len(descriptors())
            head = HeadProcess(port, "rest")
            assert await head.line() == ["ready"]
            assert mappings("omni-pool") == 2
            head.close()
            await eventually(lambda: not server._outgoing._peers)
            gc.collect()
            assert mappings("omni-pool") == 0
            assert len(descriptors()) <= before

    asyncio.run(body())


def test_one_who_asks_and_asks_and_never_reads_is_not_answered_without_bound(monkeypatch):
    monkeypatch.setattr(outbox_module, "MOST_ANSWERS", 50)
    monkeypatch.setattr(outbox_module, "MOST_REFUSALS", 200)

    async def body():
        async with serving() as (server, port, connect):
            stranger = zmq.asyncio.Context.instance().socket(zmq.DEALER)
            stranger.set(zmq.RCVHWM, 1)
            stranger.set(zmq.RCVBUF, 4096)
            stranger.connect(f"tcp://127.0.0.1:{port}")
            array = np.ones(60_000, np.uint8)
            for number in range(600):
                params = GenerationParams(prompt="echo", embeddings={"a": array})
                await stranger.send_multipart(pack(Add(f"stranger-{number}", params)))
                if number == 300:
                    assert (await ask(connect(), "other", "echo", a=array)).embeddings
            await stranger.send_multipart(pack(Rpc("last", "stats")))
            await eventually(lambda: server._deaf)
            (deaf,) = server._deaf
            assert len(server._outgoing.peer(deaf).outbox) <= 201 + 50
            assert (await ask(connect(), "another", "echo", a=array)).embeddings
            stranger.close(linger=0)
            await eventually(lambda: not server._deaf)

    asyncio.run(body())


def test_news_replace_each_other_and_answers_stay_in_order():
    box = outbox_module.Outbox()
    for step in range(1000):
        box.put(Progress("a", step, 1000))
        box.put(Partial("a", GeneratedText(text=f"{step},", tokens=[step])))
        box.put(Partial("a", preview=[np.full(3, step)]))
        box.put(Alive())
    box.put(Progress("b", 7, 1000))
    box.put(Output("a", GenerationResult(images=[np.zeros(10, np.uint8)])))
    box.put(Partial("b", preview=[np.zeros(3)]))
    assert len(box) == 5
    partial, alive, progress, output, other = (box.pop() for _ in range(5))
    assert (progress.id, progress.step) == ("b", 7), "of one that has an answer it is no news"
    assert partial.written.text == "".join(f"{step}," for step in range(1000))
    assert partial.written.tokens == list(range(1000))
    assert partial.preview[0].tolist() == [999] * 3
    assert isinstance(alive, Alive)
    assert output.id == "a"
    assert other.written is None
    assert len(box) == 0


def test_a_pool_is_never_read_for_what_an_earlier_connection_left_unsent():
    near, far = linked()
    stale = pack_shared(message(a=np.ones(MIB, np.uint8)), near).places[0]
    later = Link("far", capacity=MIB * 4)
    far.on_offer(later.offer())
    with pytest.raises(ValueError, match="no pool"):
        far.take(Place(*stale))
