"""Clients and their API keys, from a file with one key per line.

A key may be followed by what its client is and may do:

    KEY name=alice tenant=team-a max-priority=10 requests-per-minute=60

`tenant=*` is for a gateway: its requests name the tenant themselves.
"""

import hashlib
import math
import time
from dataclasses import dataclass, field

ANY_TENANT = "*"
MAX_PRIORITY = 100
OPTIONS = ("name", "tenant", "max-priority", "requests-per-minute")


@dataclass(frozen=True)
class Client:
    """Who sends a request.

    name: for logs; never the key
    tenant: whose share its requests take, and who owns its videos; `*` if each request names its tenant
    max_priority: a request with a higher priority runs with this one
    requests_per_minute: of POST requests; None is not limited
    """

    name: str
    tenant: str
    max_priority: int = 0
    requests_per_minute: int | None = None

    @property
    def owner(self) -> str:
        """The owner of its videos: its tenant, so that all keys of a tenant share them."""
        return f"client {self.name}" if self.tenant == ANY_TENANT else f"tenant {self.tenant}"


@dataclass
class Rate:
    """A token bucket: `per_minute` requests at once, and as many each minute after that."""

    per_minute: int
    _tokens: float = field(init=False)
    _time: float = field(init=False)

    def __post_init__(self) -> None:
        self._tokens, self._time = float(self.per_minute), time.monotonic()

    def seconds_until_next(self) -> float:
        """Take one request: 0 if it may run now, else the seconds until one may."""
        now = time.monotonic()
        self._tokens = min(self.per_minute, self._tokens + (now - self._time) * self.per_minute / 60)
        self._time = now
        if self._tokens < 1:
            return (1 - self._tokens) * 60 / self.per_minute
        self._tokens -= 1
        return 0.0


def parse_clients(text: str) -> tuple[dict[bytes, Client], list[str]]:
    """The clients in a key file by the hash of their key, and an error for each line that is not valid.

    Errors name the line's number and never its text, which may be a key.
    """
    clients: dict[bytes, Client] = {}
    errors = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.split()) or line.startswith("#"):
            continue
        hash = hash_key(words[0])
        try:
            client = _parse_client(hash, words[1:])
        except ValueError as error:
            errors.append(f"line {number}: {error}")
            continue
        if clients.setdefault(hash, client) != client:
            errors.append(f"line {number}: the key of another line, with other options")
    return clients, errors


def hash_key(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).digest()


def _parse_client(hash: bytes, options: list[str]) -> Client:
    """Raises ValueError, which names the option."""
    values: dict[str, str] = {}
    for option in options:
        name, is_option, value = option.partition("=")
        if not is_option or name not in OPTIONS:
            raise ValueError(f"a key and then {', '.join(f'{known}=…' for known in OPTIONS)} are expected")
        if not value or name in values:
            raise ValueError(f"{name}: give one value")
        values[name] = value
    name = values.get("name", f"key-{hash.hex()[:8]}")
    return Client(
        name=name,
        tenant=values.get("tenant", name),
        max_priority=_whole_number(values, "max-priority", -MAX_PRIORITY, MAX_PRIORITY) or 0,
        requests_per_minute=_whole_number(values, "requests-per-minute", 1, math.inf),
    )


def _whole_number(values: dict[str, str], name: str, least: float, most: float) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not (text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10 and least <= int(text) <= most):
        bounds = f"from {least} to {most}" if most < math.inf else f"from {least}"
        raise ValueError(f"{name}: give a whole number {bounds}")
    return int(text)
