"""What a kubeconfig selects, and what is said of one that cannot be used."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from omni_operator.kube.configuration import load_configuration
from omni_operator.kube.errors import BrokenKubeconfig, NoCredentials
from omni_operator.kube.kubeconfig import current_namespace

SERVER = "https://kube.internal:6443"


def config(cluster: Any = None, context: Any = None, user: Any = None, **fields: Any) -> dict[str, Any]:
    """A kubeconfig with the context `here`."""
    return {
        "current-context": "here",
        "contexts": [{"name": "here", "context": context or {"cluster": "c", "user": "u", "namespace": "team-a"}}],
        "clusters": [{"name": "c", "cluster": {"server": SERVER} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {"token": "secret"}}],
        **fields,
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the file that KUBECONFIG names, and returns its path."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def write(content: Any, name: str = "config") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
        monkeypatch.setenv("KUBECONFIG", str(path))
        return path

    return write


def loaded(context: str | None = None) -> Any:
    return load_configuration(context)[0]


def test_the_context_selects_server_user_and_namespace(write: Any) -> None:
    write(config())
    configuration = loaded()
    assert configuration.host == SERVER
    assert configuration.auth_settings()["BearerToken"]["value"] == "Bearer secret"
    assert current_namespace() == "team-a"


def test_of_several_files_the_first_counts(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = write(config({"server": "https://first"}), "a")
    second = config({"server": "https://second"}, **{"current-context": "there"})
    second["contexts"].append({"name": "there", "context": {"cluster": "c", "user": "u"}})
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'missing'}:{write(second, 'b')}")
    assert loaded().host == "https://first"
    assert current_namespace() == "team-a"
    assert current_namespace("there") == "default"


def test_the_proxy_of_a_cluster_overrides_that_of_the_environment(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:3128")
    monkeypatch.setenv("NO_PROXY", "kube.internal")
    write(config())
    assert not loaded().proxy
    write(config({"proxy-url": "http://kubeconfig:3128"}))
    assert loaded().proxy == "http://kubeconfig:3128"
    monkeypatch.delenv("NO_PROXY")
    write(config())
    assert loaded().proxy == "http://environment:3128"
    write(config({"server": "https://127.0.0.1:6443"}))
    assert not loaded().proxy


def test_without_a_kubeconfig_there_are_no_credentials(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write(config()).parent
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(NoCredentials, match="set KUBECONFIG"):
        loaded()
    assert current_namespace() == "default"


BROKEN: dict[str, tuple[Any, str]] = {
    "empty": (b"", "it is empty"),
    "no mapping": (b"- a", "expected a mapping, found list"),
    "not YAML": (b"a: [", "line 1"),
    "not text": (b"\xff\xfe\x00", "it is not text"),
    "deep": (b"[" * 100_000, "cannot be used"),
    "contexts that are no list": (config(contexts={"a": 1}), "contexts: Input should be a valid list"),
    "a cluster without a server": (config(clusters=[{"name": "c", "cluster": {}}]), r"clusters\[0\].cluster.server"),
    "a namespace that is a number": (
        config(context={"cluster": "c", "namespace": 7}),
        r"contexts\[0\].context.namespace: Input should be a valid string",
    ),
    "no current context": (config(**{"current-context": ""}), "no current-context; it has: here; `kubectl config"),
    "another current context": (config(**{"current-context": "away"}), "current-context 'away' is not among .* here"),
    "no such cluster": (config(context={"cluster": "x"}), "context 'here' names the cluster 'x', which it lacks"),
    "no such user": (config(users=None), "context 'here' names the user 'u', which it lacks"),
    "a server without a scheme": (config({"server": "kube:6443"}), r"server: 'kube:6443' is not an address; expected"),
    "a server with a bad port": (config({"server": "https://kube:x"}), "server: 'https://kube:x' is not an address"),
    "a SOCKS proxy": (config({"proxy-url": "socks5://proxy"}), "proxy-url: 'socks5://proxy' .* SOCKS is not supported"),
    "a proxy without a scheme": (config({"proxy-url": "proxy:3128"}), "proxy-url: 'proxy:3128' is not the address"),
    "no such authority": (config({"certificate-authority": "/no/ca.crt"}), "context 'here': .*/no/ca.crt"),
    "no base64": (config({"certificate-authority-data": "x"}), "context 'here' has data that is not base64"),
    "no certificate": (
        config({"certificate-authority-data": base64.b64encode(b"no PEM").decode()}),
        "context 'here' has a certificate or key that cannot be read",
    ),
    "no such token file": (config(user={"tokenFile": "/no/token"}), "context 'here': .*/no/token"),
    "a plugin that fails": (
        config(user={"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}}),
        "the plugin 'false' of context 'here' gave no credentials; run it by hand",
    ),
    "a plugin that is missing": (
        config(user={"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/plugin"}}),
        "/no/plugin",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_kubeconfig_is_reported_with_the_file_the_problem_and_a_remedy(write: Any, row: str) -> None:
    content, problem = BROKEN[row]
    path = write(content)
    with pytest.raises(BrokenKubeconfig, match=problem) as raised:
        loaded()
    assert str(path) in str(raised.value)
    assert ";" in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_file_that_cannot_be_opened_is_reported(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    with pytest.raises(BrokenKubeconfig, match="Is a directory"):
        loaded()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(BrokenKubeconfig, match=r"there is no kubeconfig .*/missing; set KUBECONFIG"):
        loaded()


def test_a_context_that_does_not_exist_is_reported_with_those_that_do(write: Any) -> None:
    write(config())
    with pytest.raises(BrokenKubeconfig, match=r"--context away: the kubeconfig .* has no such context; it has: here"):
        loaded("away")
