"""Reads single files of models on the hub over HTTP, with the same environment variables as `huggingface_hub`."""

import os
from pathlib import Path

import httpx

from omni_operator.kube.proxies import environment_proxy
from omni_settings.model_size import LENGTH_BYTES, header_length

PUBLIC_HUB = "https://huggingface.co"
TIMEOUT_SECONDS = 20.0
FIRST_BYTES = 256 * 1024
"""Of a file of weights: usually its whole header."""


class HubError(Exception):
    """The hub does not return a file. The message says why and what to do."""

    exit_code = 1


def read_hub_file(model: str, file: str, revision: str = "main") -> str | None:
    """The text of a file of the model `org/name`; None if the model has no such file. Raises HubError."""
    response = _get(model, f"/{model}/resolve/{revision}/{file}")
    return None if response is None else response.text


def read_hub_header(model: str, file: str, size: int, revision: str = "main") -> bytes:
    """The header of a safetensors file of `size` bytes. Raises HubError, or ValueError if it is no such file."""
    path = f"/{model}/resolve/{revision}/{file}"
    start = _content(_get(model, path, f"bytes=0-{min(size, FIRST_BYTES) - 1}"))
    end = LENGTH_BYTES + header_length(start)
    if len(start) < end:
        start += _content(_get(model, path, f"bytes={len(start)}-{end - 1}"))
    return start[LENGTH_BYTES:end]


def list_hub_files(model: str, revision: str = "main") -> dict[str, int]:
    """The sizes of the files of the model `org/name`, by path. Raises HubError."""
    response = _get(model, f"/api/models/{model}/tree/{revision}?recursive=true")
    try:
        entries = response.json() if response is not None else []
        return {entry["path"]: int(entry["size"]) for entry in entries if entry["type"] == "file"}
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(f"{model}: the hub's list of its files is malformed: {error!r}") from None


def _content(response: httpx.Response | None) -> bytes:
    return b"" if response is None else response.content


def _get(model: str, path: str, byte_range: str | None = None) -> httpx.Response | None:
    """The response to a GET; None if there is no such file. Raises HubError."""
    hub, token = os.environ.get("HF_ENDPOINT", PUBLIC_HUB).rstrip("/"), hub_token()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError(f"{model}: {hub} is not asked while HF_HUB_OFFLINE is set; unset it, or give a folder")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if byte_range is not None:
        headers["Range"] = byte_range
    url = f"{hub}{path}"
    try:
        response = httpx.get(
            url,
            headers=headers,
            follow_redirects=True,
            timeout=TIMEOUT_SECONDS,
            verify=httpx.create_ssl_context(),
            proxy=environment_proxy(url),
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise HubError(f"{model}: {hub} could not be asked ({error}); check the connection, or give a folder") from None
    if response.status_code in (200, 206):
        return response
    error_code = response.headers.get("X-Error-Code", "")
    if response.status_code == 404 and error_code != "RepoNotFound":
        return None
    raise HubError(f"{model}: {_refusal_reason(response.status_code, error_code, hub, model, bool(token))}")


def hub_token() -> str | None:
    """The access token in HF_TOKEN, or else the one that `hf auth login` stored."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH", f"{home}/token")).expanduser()
    token = os.environ.get("HF_TOKEN")
    if token is None and file.is_file():
        token = file.read_text()
    return (token or "").strip() or None


def _refusal_reason(status: int, error_code: str, hub: str, model: str, has_token: bool) -> str:
    """What an error response means. The hub reports a private model as if it did not exist."""
    if error_code == "GatedRepo" and has_token:
        return f"it is gated, and the account of the token has no access yet; ask for it at {hub}/{model}"
    if error_code == "GatedRepo":
        return f"it is gated; accept its terms at {hub}/{model}, and set HF_TOKEN to a token of that account"
    if status == 401 and has_token:
        return f"{hub} does not accept the token; check HF_TOKEN"
    if status in (401, 404) and not has_token:
        return f"{hub} has no public model of this name; check the spelling, or set HF_TOKEN if it is private"
    if status in (403, 404):
        return f"{hub} has no model of this name that the token may read; check the spelling, and the token's rights"
    return f"{hub} answers {status}; try again later"
