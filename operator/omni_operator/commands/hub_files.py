"""Reads single files of models on the hub over HTTP, with the same environment variables as `huggingface_hub`."""

import os
from pathlib import Path

import httpx

PUBLIC_HUB = "https://huggingface.co"
TIMEOUT_SECONDS = 20.0


class HubError(Exception):
    """The hub does not return a file. The message says why and what to do."""

    exit_code = 1


def read_hub_file(model: str, file: str, revision: str = "main") -> str | None:
    """The text of a file of the model `org/name`; None if the model has no such file. Raises HubError."""
    hub, token = os.environ.get("HF_ENDPOINT", PUBLIC_HUB).rstrip("/"), hub_token()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError(f"{model}: {hub} is not asked while HF_HUB_OFFLINE is set; unset it, or give a folder")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{hub}/{model}/resolve/{revision}/{file}"
    try:
        response = httpx.get(url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise HubError(f"{model}: {hub} could not be asked ({error}); check the connection, or give a folder") from None
    if response.status_code == 200:
        return response.text
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
