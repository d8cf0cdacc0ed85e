"""A head with local replicas, and request mode: real processes."""

import os
import signal
from pathlib import Path

import pytest

from tests.worker.serving import Process, draw, eventually, free_ports

pytestmark = pytest.mark.processes


def start_head(*extra):
    api, master, router, pub, data = free_ports(5)
    return Process(
        "builtin://digits", "--host", "127.0.0.1", "--port", str(api), "--omni-master-address", "127.0.0.1",
        "--omni-master-port", str(master), "--omni-coordinator-port", str(router),
        "--omni-coordinator-pub-port", str(pub), "--omni-replica-port", str(data), *extra, port=api,
    )  # fmt: skip


def up(head):
    return [one for one in head.get("/omni/replicas").json()["replicas"] if one["state"] == "UP"]


def test_a_head_with_two_replicas_of_its_own_serves_restarts_the_dead_and_drains():
    head = start_head("--omni-dp-size-local", "2", "--replica-id", "3")
    try:
        eventually(lambda: len(up(head)) == 2, "two local replicas")
        assert "--replica-id is deprecated" in head.log
        assert head.is_ready()
        draw(head.port)
        os.kill(head.replicas[0], signal.SIGKILL)
        eventually(lambda: len(up(head)) == 1, "the loss to be noticed")
        draw(head.port)
        eventually(lambda: len(up(head)) == 2, "the replica to be back")
        ids = sorted(one["id"] for one in up(head))
        assert ids == ["stage-0-0", "stage-0-1"], "the dead one's id is used again"
        assert head.stop() == 0
    finally:
        head.close()


def test_request_mode_serves_too():
    head = start_head("--no-step-execution")
    try:
        eventually(head.is_ready, "a replica in request mode")
        assert up(head)[0]["mode"] == "request"
        draw(head.port, n=3)
    finally:
        head.close()


def test_replicas_end_when_their_supervisor_is_killed():
    head = start_head()
    try:
        eventually(head.is_ready, "a local replica")
        (replica,) = head.replicas
        head.stop(signal.SIGKILL)
        eventually(lambda: has_ended(replica), "the replica's end")
    finally:
        head.close()


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
