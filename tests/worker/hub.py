"""A small real hub: repositories that are folders of this machine, by the routes that huggingface_hub asks."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.loopback import Loopback, QuietHandler

COMMIT = "c" * 40


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the files that are downloaded from it, as they are: `org/name/path`."""
    downloaded: list[str] = []

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            for name, folder in repositories.items():
                if path in (f"api/models/{name}", *(f"api/models/{name}/revision/{at}" for at in ("main", COMMIT))):
                    self.send(json.dumps(description(name, folder)).encode(), with_body)
                    return
                if path == f"api/models/{name}/tree/{COMMIT}":
                    self.send(json.dumps(tree(folder)).encode(), with_body)
                    return
                before, _, after = path.partition("/resolve/")
                file = folder / after.partition("/")[2]
                if before == name and file.is_file():
                    if with_body:
                        downloaded.append(f"{name}/{file.relative_to(folder)}")
                    self.send(file.read_bytes(), with_body)
                    return
            self.send(b"{}", with_body, 404, {"X-Error-Code": "EntryNotFound"})

        def send(self, body: bytes, with_body: bool, status: int = 200, more: dict[str, str] | None = None) -> None:
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
            for key, value in {**headers, "X-Repo-Commit": COMMIT, **(more or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = Loopback(Handler)
    try:
        yield server.url, downloaded
    finally:
        server.close()


def tree(folder: Path) -> list[dict[str, object]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        {
            "type": "file",
            "path": str(file.relative_to(folder)),
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]


def description(name: str, folder: Path) -> dict[str, object]:
    siblings = [{"rfilename": entry["path"]} for entry in tree(folder)]
    common = {"private": False, "tags": [], "downloads": 0}
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, **common}
