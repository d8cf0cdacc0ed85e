"""A head and a headless replica in two network namespaces that are connected by a virtual cable.

The namespaces are named `omni-…` after this process, and are deleted at the end.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.processes
HEAD_IP, REPLICA_IP, OTHER_IP = "10.213.77.1", "10.213.77.2", "10.213.77.3"
TIMEOUT_SECONDS = 2.0

HEAD = """
import asyncio, json, os, sys
from tests.worker.coordinator.live_fleet import Fleet
async def main():
    fleet = Fleet(timeout=float(sys.argv[1]), host="0.0.0.0"); fleet.ports = [9000, 9001, 9002]; fleet.start()
    while True:
        with open(sys.argv[2] + ".new", "w") as file:
            json.dump({one.address: one.state for one in fleet.view.values()}, file)
        os.replace(file.name, sys.argv[2])
        await asyncio.sleep(0.05)
asyncio.run(main())
"""
REPLICA = """
import asyncio, os, sys
from omni_worker.transport.sockets import local_address_towards
from tests.worker.coordinator.live_fleet import Client
async def main():
    own = sys.argv[2] if len(sys.argv) > 2 else local_address_towards(sys.argv[1], 9000)
    Client(f"replica-{os.getpid()}", 9000, None, host=sys.argv[1], address=f"tcp://{own}:9100")
    await asyncio.Event().wait()
asyncio.run(main())
"""


def ip(*argv, check=True):
    return subprocess.run(["ip", *argv], check=check, capture_output=True, text=True)


class Wire:
    """Two network namespaces and the cable between them."""

    def __init__(self):
        self.head, self.replica = f"omni-head-{os.getpid()}", f"omni-replica-{os.getpid()}"
        self._processes = []

    def make(self):
        for name in (self.head, self.replica):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ends = f"oh{os.getpid()}", f"or{os.getpid()}"
        ip("link", "add", ends[0], "netns", self.head, "type", "veth", "peer", "name", ends[1], "netns", self.replica)
        self._end = ends[0]
        for name, end, addresses in zip(
            (self.head, self.replica), ends, ([HEAD_IP], [REPLICA_IP, OTHER_IP]), strict=True
        ):
            for address in addresses:
                ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")

    def set(self, state):
        """Connect (`up`) or disconnect (`down`) the cable."""
        ip("-n", self.head, "link", "set", self._end, state)

    def run(self, namespace, code, *argv):
        process = subprocess.Popen(["ip", "netns", "exec", namespace, sys.executable, "-c", code, *argv])
        self._processes.append(process)
        return process

    def delete(self):
        for process in self._processes:
            process.kill()
            process.wait()
        for name in (self.head, self.replica):  # the wire goes with them
            ip("netns", "delete", name, check=False)


@pytest.fixture(scope="module")
def machines():
    wire = Wire()
    try:
        try:
            wire.make()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}")
        yield wire
    finally:
        with contextlib.suppress(OSError):
            wire.delete()


@pytest.fixture(scope="module")
def head(machines, tmp_path_factory):
    return Head(machines, tmp_path_factory.mktemp("head") / "view.json")


class Head:
    """The head's view, which it writes to a file twenty times per second."""

    def __init__(self, machines, file):
        self._file = file
        machines.run(machines.head, HEAD, str(TIMEOUT_SECONDS), str(file))

    def until(self, state, address, seconds=120.0):
        """Wait until the view contains a replica with this state and address."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            view = json.loads(self._file.read_text()) if self._file.exists() else {}
            if view.get(address) == state:
                return
            time.sleep(0.05)
        raise AssertionError(f"{address} is not {state} within {seconds:g} s: {view}")


def address(ip):
    return f"tcp://{ip}:9100"


def test_a_replica_finds_its_own_address_and_is_found_again_after_a_partition(machines, head):
    replica = machines.run(machines.replica, REPLICA, HEAD_IP)
    head.until("UP", address(REPLICA_IP))
    machines.set("down")
    head.until("ERROR", address(REPLICA_IP))
    machines.set("up")
    head.until("UP", address(REPLICA_IP))
    replica.kill()
    replica.wait()
    head.until("ERROR", address(REPLICA_IP))


def test_the_address_that_it_is_given_goes_before_the_one_it_finds(machines, head):
    replica = machines.run(machines.replica, REPLICA, HEAD_IP, OTHER_IP)
    head.until("UP", address(OTHER_IP))
    replica.kill()
