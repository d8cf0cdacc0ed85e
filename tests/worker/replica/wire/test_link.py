"""Pools that are shared over a connection: who can open them, and what stays valid when they close."""

import gc
import os
import shutil
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from omni_worker.replica.wire.link import Link, Offer, PoolReply
from omni_worker.replica.wire.messages import (
    pack_shared,
)
from omni_worker.transport.shared_memory import SEALS, create_pool
from tests.worker.replica.wire.arrays import MIB, linked, message


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
    near.on_reply(PoolReply(places[0].pool, True))
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
    near.on_reply(PoolReply(good.pool + 1, True))
    near.on_reply(PoolReply(good.pool, False))
    near.on_reply(PoolReply(good.pool, True))
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
