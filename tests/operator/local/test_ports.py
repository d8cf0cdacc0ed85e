"""Free ports of this machine."""

import socket

import pytest

from omni_operator.local.errors import LocalFailure
from omni_operator.local.ports import FreePorts, is_port_free, require_free_port


def test_a_busy_port_gives_a_clear_message() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert not is_port_free(port)
        with pytest.raises(LocalFailure, match=f"port {port} is in use .* choose another with --port"):
            require_free_port(port)


def test_ports_are_free_consecutive_and_never_returned_twice() -> None:
    ports = FreePorts()
    first, second = ports(3), ports(2)
    returned = [*range(first, first + 3), *range(second, second + 2)]
    assert len(set(returned)) == 5
    assert all(map(is_port_free, returned))
