"""Which HTTP proxy the environment names for an address: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

As with kubectl, a loopback address never goes through one: what listens there is on this machine, and a proxy is not.
SOCKS proxies are not supported.
"""

import os
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

PROXY_SCHEMES = ("http", "https")


class UnusableProxy(Exception):
    """The environment names a proxy that cannot be used. The message names the variable, and says what to do."""

    exit_code = 1


def environment_proxy(url: str) -> str | None:
    """The URL of the proxy for requests to `url`; None for direct ones. Raises UnusableProxy."""
    parts, proxies = urlsplit(url), getproxies_environment()
    word = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(word)
    host = (parts.hostname or "").rstrip(".")
    exceptions = (text.strip().lower() for text in proxies.get("no", "").split(","))
    if not proxy or is_loopback(host) or any(matches(text, host, parts.port) for text in exceptions):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not is_address(proxy, PROXY_SCHEMES):
        raise UnusableProxy(
            f"{variable(word)} is {without_password(proxy)!r}, which is not the address of an HTTP proxy; expected one"
            f" like http://HOST:3128 (SOCKS is not supported), or {host} in NO_PROXY"
        )
    return proxy


def variable(word: str) -> str:
    """The variable of the environment that names the proxy for `http`, `https` or `all`."""
    lower = f"{word}_proxy"
    return lower if lower in os.environ else lower.upper()


def without_password(url: str) -> str:
    """A URL to show, without a user's name and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def is_address(url: str, schemes: Sequence[str]) -> bool:
    """Whether a URL has one of these schemes, a host, and a port that is a number if it has one."""
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a name or an address, without brackets, is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def matches(exception: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY means a host.

    An entry is a name, for it and all names below it, an address, or a range such as 10.0.0.0/8, each with or without a
    port; or * for everything.
    """
    if exception == "*":
        return True
    name, colon, number = exception.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        exception = name
    exception = exception.removeprefix("[").removesuffix("]")
    try:
        return ip_address(host) in ip_network(exception, strict=False)
    except ValueError:
        domain = exception.removeprefix("*").removeprefix(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
