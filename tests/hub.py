"""A small hub: serves folders as models, over the HTTP that huggingface_hub speaks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import Loopback, QuietHandler

Reply = tuple[int, bytes, dict[str, str]]


class Hub(Loopback):
    """`models` are folders by name, `org/name`. Those of `gated` are only for who shows the `token`; `hf_other` is the
    token of somebody whom they are not given to. `org/busy` is too much for it."""

    def __init__(self, models: Mapping[str, Path], gated: tuple[str, ...] = (), token: str = "hf_right") -> None:
        self.models, self.gated, self.token = dict(models), gated, token
        self.asked: list[str] = []
        hub = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body, headers = hub.reply(unquote(urlsplit(self.path).path), self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

        super().__init__(Handler)

    def reply(self, path: str, authorization: str | None) -> Reply:
        """Status, body and headers, for `/api/models/ORG/NAME…` and for `/ORG/NAME/resolve/REVISION/FILE`."""
        self.asked.append(path)
        is_api = path.startswith("/api/models/")
        org, name, *rest = path.removeprefix("/api/models").removeprefix("/").split("/")
        model = f"{org}/{name}"
        shown = (authorization or "").removeprefix("Bearer ")
        if model == "org/busy":
            return refusal(503, "", "Service Unavailable")
        if shown not in ("", self.token, "hf_other"):
            return refusal(401, "", "Invalid credentials in Authorization header")
        if model not in self.models:  # nobody is told whether it is there
            return refusal(404, "RepoNotFound", "Repository not found") if shown else refusal(401, "", "Unauthorized")
        if model in self.gated and shown != self.token and not is_api:
            status = 403 if shown else 401
            return refusal(status, "GatedRepo", f"Access to model {model} is restricted.")
        folder = self.models[model]
        commit = hashlib.sha1(model.encode()).hexdigest()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if is_api and rest[:1] == ["tree"]:
            return answer([entry(file, folder) for file in files])
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
    """A file of a listing."""
    body = file.read_bytes()
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}


def answer(content: Any) -> Reply:
    return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}


def refusal(status: int, code: str, message: str) -> Reply:
    """An error as the hub tells it: in headers."""
    return status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message}
