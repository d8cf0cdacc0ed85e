"""Ports for the processes that a benchmark starts."""

from omni_operator.local.ports import FreePorts

choose_port = FreePorts()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that the kernel gives to no connection."""
    return [choose_port(1) for _ in range(count)]
