"""Where processes listen: on loopback, unless they have a secret or are told to be insecure."""

import pytest

from omni_worker.addresses import is_loopback
from omni_worker.errors import UsageError

from .command_lines import parse

ALL, LOOPBACK = "*", "127.0.0.1"
HEADLESS = ("--headless", "--omni-master-address")


def listening(*flags):
    """The hosts of HTTP, of the ports for replicas, and of the data ports."""
    config = parse(*flags)
    return config.host, config.head.master_address if config.head else None, config.replica(0).bind_host


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param((), (LOOPBACK, LOOPBACK, LOOPBACK), id="a head alone"),
        pytest.param(("--insecure",), (ALL, ALL, LOOPBACK), id="insecure"),
        pytest.param(("--omni-secret-file", "s"), (ALL, ALL, LOOPBACK), id="with a secret"),
        pytest.param(("--host", ALL), (ALL, LOOPBACK, LOOPBACK), id="HTTP for everyone, the rest not"),
        pytest.param(("--host", "::"), ("::", LOOPBACK, LOOPBACK), id="the same in IPv6"),
        pytest.param(("--host", LOOPBACK, "--omni-secret-file", "s"), (LOOPBACK,) * 3, id="HTTP on loopback"),
        pytest.param(("--host", "localhost", "--insecure"), ("localhost", LOOPBACK, LOOPBACK), id="by name"),
        pytest.param(
            ("--host", LOOPBACK, "--omni-master-address", ALL, "--omni-secret-file", "s"), (LOOPBACK, ALL, LOOPBACK),
            id="HTTP on loopback behind a proxy, replicas elsewhere",
        ),
        pytest.param((*HEADLESS, LOOPBACK), (LOOPBACK, None, LOOPBACK), id="headless on the same machine"),
        pytest.param(
            (*HEADLESS, LOOPBACK, "--omni-replica-address", LOOPBACK, "--omni-secret-file", "s", "--host", LOOPBACK),
            (LOOPBACK, None, LOOPBACK), id="as `omni up` starts them",
        ),
        pytest.param((*HEADLESS, "head", "--omni-secret-file", "s"), (ALL, None, ALL), id="headless elsewhere"),
        pytest.param((*HEADLESS, "head", "--insecure"), (ALL, None, ALL), id="headless elsewhere, insecure"),
    ],
)  # fmt: skip
def test_ports_between_processes_are_open_to_others_only_with_a_secret(flags, expected):
    assert listening(*flags) == expected


@pytest.mark.parametrize(
    "flags",
    [
        ("--omni-master-address", ALL),
        ("--omni-master-address", "192.168.1.5"),
        ("--omni-replica-address", "192.168.1.5"),
        (*HEADLESS, "head.example"),
        (*HEADLESS, LOOPBACK, "--omni-replica-address", "10.0.0.7"),
    ],
)
def test_others_are_refused_without_one(flags):
    with pytest.raises(UsageError, match=r"without --omni-secret-file: .* --insecure"):
        parse(*flags)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "head", "127.0.0.1.example", ""])
def test_not_loopback(host):
    assert not is_loopback(host)
