"""Which proxies of the environment the model hub can be reached through."""

import pytest

from omni_worker.commands.fetch import download
from omni_worker.config import lora_source, model_source
from omni_worker.config.hub_proxy import require_usable_proxies
from omni_worker.errors import LoadError, UsageError

NAMED = ["HTTPS_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("http", "https", "all"):
        monkeypatch.delenv(f"{word}_proxy", raising=False)
        monkeypatch.delenv(f"{word}_PROXY".upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.parametrize("variable", NAMED)
def test_a_socks_proxy_is_rejected_by_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "socks5h://proxy:1080")
    with pytest.raises(UsageError, match=f"^{variable} names a SOCKS proxy.*set it to an HTTP proxy"):
        require_usable_proxies()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    require_usable_proxies()


def test_http_proxies_and_proxies_of_other_protocols_are_not_its_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("FTP_PROXY", "socks5://proxy:1080")
    require_usable_proxies()


def test_models_and_adapters_of_the_hub_are_not_asked_for_through_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1080")
    with pytest.raises(UsageError, match="ALL_PROXY names a SOCKS proxy"):
        download(model_source.parse("hf://org/name"))
    with pytest.raises(LoadError, match="ALL_PROXY names a SOCKS proxy"):
        lora_source.parse("ink=hf://org/name").find()
