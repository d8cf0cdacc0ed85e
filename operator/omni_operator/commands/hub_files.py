"""Reads single files of models on the hub, over its HTTP; as `huggingface_hub` would, whose settings are minded."""

import os
from pathlib import Path

import httpx

PUBLIC = "https://huggingface.co"
TIMEOUT_SECONDS = 20.0


class HubError(Exception):
    """The hub does not give it; the message says why and what to do."""

    exit_code = 1


def read(name: str, file: str, revision: str = "main") -> str | None:
    """A file of the model `org/name`; None where that has no such file. Raises HubError."""
    hub, secret = os.environ.get("HF_ENDPOINT", PUBLIC).rstrip("/"), token()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError(f"{name}: {hub} is not asked while HF_HUB_OFFLINE is set; unset it, or give a folder")
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    url = f"{hub}/{name}/resolve/{revision}/{file}"
    try:
        answer = httpx.get(url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise HubError(f"{name}: {hub} could not be asked ({error}); check the connection, or give a folder") from None
    if answer.status_code == 200:
        return answer.text
    code = answer.headers.get("X-Error-Code", "")
    if answer.status_code == 404 and code != "RepoNotFound":
        return None
    raise HubError(f"{name}: {refusal(answer.status_code, code, hub, name, bool(secret))}")


def token() -> str | None:
    """The access token: of HF_TOKEN, or else the one that `hf auth login` wrote."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH", f"{home}/token")).expanduser()
    given = os.environ.get("HF_TOKEN")
    if given is None and file.is_file():
        given = file.read_text()
    return (given or "").strip() or None


def refusal(status: int, code: str, hub: str, name: str, has_token: bool) -> str:
    """What an answer other than the file means. A hub tells nobody that a private model is there."""
    if code == "GatedRepo" and has_token:
        return f"it is gated, and the account of the token has no access yet; ask for it at {hub}/{name}"
    if code == "GatedRepo":
        return f"it is gated; accept its terms at {hub}/{name}, and set HF_TOKEN to a token of that account"
    if status == 401 and has_token:
        return f"{hub} does not accept the token; check HF_TOKEN"
    if status in (401, 404) and not has_token:
        return f"{hub} has no public model of this name; check the spelling, or set HF_TOKEN if it is private"
    if status in (403, 404):
        return f"{hub} has no model of this name that the token may read; check the spelling, and the token's rights"
    return f"{hub} answers {status}; try again later"
