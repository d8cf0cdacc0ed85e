"""Which proxy of the environment a request goes through."""

import pytest

from omni_operator.kube.proxies import UnusableProxy, environment_proxy

PROXY = "http://proxy:3128"
VARIABLES = [name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")]

LOOPBACK = [
    "http://127.0.0.1:8000", "https://127.0.0.53", "http://[::1]:8000", "https://localhost:6443", "http://LOCALHOST.",
    "http://api.localhost", "http://[::ffff:127.0.0.1]:80",
]  # fmt: skip
# NO_PROXY, an address that it means, and a similar one that it does not.
EXCEPTIONS = [
    ("kube.internal", "https://kube.internal:6443", "https://mykube.internal"),
    (".internal", "https://kube.internal", "https://internals"),
    ("*.internal", "https://a.kube.internal", "https://internal.com"),
    ("10.0.0.0/8", "https://10.1.2.3", "https://11.1.2.3"),
    ("fd00::/8", "https://[fd00::1]:6443", "https://[fe00::1]:6443"),
    ("10.1.2.3", "https://10.1.2.3:6443", "https://10.1.2.4"),
    ("kube:6443", "https://kube:6443", "https://kube:443"),
    ("[fd00::1]:6443", "https://[fd00::1]:6443", "https://[fd00::1]"),
    ("a, B.C ,d", "http://x.b.c", "http://e"),
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", LOOPBACK)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "all_proxy"])
def test_a_loopback_address_never_goes_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str
) -> None:
    monkeypatch.setenv(variable, PROXY)
    assert environment_proxy(url) is None


@pytest.mark.parametrize(("no_proxy", "direct", "other"), EXCEPTIONS)
def test_no_proxy_lists_exceptions(monkeypatch: pytest.MonkeyPatch, no_proxy: str, direct: str, other: str) -> None:
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert environment_proxy(direct) is None
    assert environment_proxy(other) == PROXY


def test_each_scheme_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    assert environment_proxy("https://kube.internal:6443") == PROXY
    assert environment_proxy("http://kube.internal") is None
    monkeypatch.setenv("NO_PROXY", "*")
    assert environment_proxy("https://kube.internal:6443") is None


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", ["socks5://me:secret@proxy:1080", "socks4a://proxy", "http://proxy:port", "http://"])
def test_a_proxy_that_cannot_be_used_is_rejected_by_its_variable_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(UnusableProxy) as raised:
        environment_proxy("https://kube.internal:6443")
    assert str(raised.value).startswith(f"{variable} is ")
    assert "http://HOST:3128 (SOCKS is not supported), or kube.internal in NO_PROXY" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert environment_proxy("http://localhost") is None
