"""A small real model hub: serves folders as repositories, by the routes that huggingface_hub calls."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import Loopback, QuietHandler

Reply = tuple[int, bytes, dict[str, str]]


class Hub(Loopback):
    """`models` are folders by name, `org/name`. The name `org/busy` answers 503.

    gated: models that need `token`; `hf_other` is a valid token without access to them
    requests: the paths of all requests
    downloads: the files whose content was sent, as `org/name/path`
    """

    def __init__(self, models: Mapping[str, Path], gated: tuple[str, ...] = (), token: str = "hf_right") -> None:
        self.models, self.gated, self.token = dict(models), gated, token
        self.requests: list[str] = []
        self.downloads: list[str] = []
        hub = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                status, body, headers = hub.reply(path, self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)
                    if status == 200 and "/resolve/" in path:
                        model, _, file = path.strip("/").partition("/resolve/")
                        hub.downloads.append(f"{model}/{file.partition('/')[2]}")

            do_HEAD = do_GET

        super().__init__(Handler)

    def reply(self, path: str, authorization: str | None) -> Reply:
        """Status, body and headers, for `/api/models/ORG/NAME…` and for `/ORG/NAME/resolve/REVISION/FILE`."""
        self.requests.append(path)
        is_api = path.startswith("/api/models/")
        org, name, *rest = path.removeprefix("/api/models").removeprefix("/").split("/")
        model = f"{org}/{name}"
        sent_token = (authorization or "").removeprefix("Bearer ")
        if model == "org/busy":
            return refusal(503, "", "Service Unavailable")
        if sent_token not in ("", self.token, "hf_other"):
            return refusal(401, "", "Invalid credentials in Authorization header")
        if model not in self.models:  # without a token the real hub does not reveal which models exist
            if not sent_token:
                return refusal(401, "", "Unauthorized")
            return refusal(404, "RepoNotFound", "Repository not found")
        if model in self.gated and sent_token != self.token and not is_api:
            status = 403 if sent_token else 401
            return refusal(status, "GatedRepo", f"Access to model {model} is restricted.")
        folder = self.models[model]
        commit = hashlib.sha1(model.encode()).hexdigest()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if is_api and rest[:1] == ["tree"]:
            under = folder.joinpath(*rest[2:])
            found = [entry(file, folder) for file in files if file.is_relative_to(under)]
            return answer(found) if found or under == folder else refusal(404, "EntryNotFound", "Entry not found")
        if is_api and rest in ([], ["revision", "main"], ["revision", commit]):
            names = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
            return answer({"id": model, "sha": commit, "siblings": names, "private": False, "tags": [], "downloads": 0})
        if is_api or rest[1] not in ("main", commit):
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {'/'.join(rest[1:2])}")
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return refusal(404, "EntryNotFound", "Entry not found")
        body = file.read_bytes()
        return 200, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}


def entry(file: Path, folder: Path) -> dict[str, Any]:
    """A file in the list of a repository's files."""
    body = file.read_bytes()
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}


def answer(content: Any) -> Reply:
    return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}


def refusal(status: int, code: str, message: str) -> Reply:
    """An error in the hub's format: its code and message are in headers."""
    return status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message}
