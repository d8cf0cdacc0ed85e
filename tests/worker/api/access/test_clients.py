"""The key file: clients, options, rates; and what its errors never contain."""

import pytest

from omni_worker.api.access.clients import Client, Rate, hash_key, parse_clients


def only(text):
    clients, errors = parse_clients(text)
    assert not errors
    (client,) = clients.values()
    return client


def test_a_file_with_one_key_a_line_is_valid():
    clients, errors = parse_clients("# those of the tests\nfirst-key\n\n  second-key  \r\nfirst-key\n")
    assert not errors
    assert set(clients) == {hash_key("first-key"), hash_key("second-key")}
    one, other = clients.values()
    assert one.tenant != other.tenant
    assert "first" not in one.name, "a name never contains the key"
    assert (one.max_priority, one.requests_per_minute) == (0, None)


def test_options():
    line = "key name=alice tenant=team-a max-priority=-5 requests-per-minute=60"
    assert only(line) == Client("alice", "team-a", -5, 60)
    assert only("key name=alice").tenant == "alice"
    assert only("key name=gate tenant=*").owner == "client gate"


def test_a_tenant_and_a_client_of_the_same_name_own_different_videos():
    assert only("key name=a tenant=*").owner != only("key tenant=a").owner


@pytest.mark.parametrize(
    "line",
    [
        "secret alice", "secret nick=alice", "secret name=", "secret name=a name=b", "secret max-priority=high",
        "secret max-priority=101", "secret max-priority=9999999999999", "secret requests-per-minute=0",
        "secret requests-per-minute=1.5", "secret max-priority=\u0661",
    ],
)  # fmt: skip
def test_a_line_that_is_not_valid_lets_nobody_in_and_the_others_stay(line):
    clients, errors = parse_clients(f"other-key\n{line}\n")
    assert set(clients) == {hash_key("other-key")}
    (error,) = errors
    assert error.startswith("line 2: ")
    assert "secret" not in error


def test_one_key_with_two_meanings_is_an_error():
    assert parse_clients("key tenant=a\nkey tenant=b\n")[1]


def test_a_rate_lets_so_many_through_and_then_says_when_the_next_may_come(monkeypatch):
    now = 0.0
    monkeypatch.setattr("omni_worker.api.access.clients.time.monotonic", lambda: now)
    rate = Rate(30)
    assert [rate.seconds_until_next() for _ in range(30)] == [0.0] * 30
    assert rate.seconds_until_next() == pytest.approx(2.0)
    now = 2.0
    assert rate.seconds_until_next() == 0.0
    assert rate.seconds_until_next() > 0
    now = 1000.0
    assert [rate.seconds_until_next() for _ in range(31)].count(0.0) == 30
