"""Whether this process can reach the model hub through the proxies that its environment names."""

from importlib.util import find_spec
from os import environ
from urllib.request import getproxies_environment

from omni_worker.errors import UsageError

SOCKS = "socks"
NO = ("", "0", "off", "no", "false")


def require_usable_proxies() -> None:
    """Raises UsageError if a variable names a SOCKS proxy, for which the hub's library lacks a package.

    The library opens a connection for every proxy, also for those that no request would go through.
    """
    if find_spec("socksio") or environ.get("HF_HUB_OFFLINE", "").lower() not in NO:
        return
    for word, proxy in getproxies_environment().items():
        if word in ("http", "https", "all") and proxy.lower().startswith(SOCKS):
            name = f"{word}_proxy" if f"{word}_proxy" in environ else f"{word}_PROXY".upper()
            raise UsageError(
                f"{name} names a SOCKS proxy, and models cannot be downloaded through one; set it to an HTTP proxy like"
                " http://HOST:3128, or unset it"
            )
