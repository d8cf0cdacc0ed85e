"""A process can have a thousand sockets."""

import subprocess
import sys

SCRIPT = """
import asyncio, resource
from omni_worker.replica.client import ReplicaClient
from omni_worker.transport.sockets import raise_socket_limits

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
raise_socket_limits()

async def main():
    clients = [ReplicaClient(f"tcp://127.0.0.1:{20000 + number}", lambda is_open: None) for number in range(1000)]
    await asyncio.gather(*(client.close() for client in clients))
    print(len(clients))

asyncio.run(main())
"""


def test_a_thousand_connections():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["1000"], done.stderr
