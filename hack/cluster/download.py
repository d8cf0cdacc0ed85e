"""Files of official releases: fetched with progress, resumed after an interruption, checked by their checksums.

A file appears under its name only when it is complete and its SHA-256 is the one that the release publishes beside it.
What was fetched before an interruption stays in NAME.part and is continued by the next call. Proxies and certificates
are those of the environment (HTTPS_PROXY, SSL_CERT_FILE).
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.shell import ClusterError, say

CHUNK = 1 << 18
REPORT_SECONDS = 5


class UnavailableError(ClusterError):
    """The file cannot be had from there now; another source may do."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server."""

    answer_seconds: float = 10
    """For the first answer."""
    stall_seconds: float = 30
    """Without a byte, in the middle of a file."""
    retries: int = 5
    """Attempts in a row that brought nothing."""
    pause_seconds: float = 1
    """Before the first of them; doubles with each."""


def fetch(url: str, checksum_url: str, target: Path, patience: Patience | None = None) -> None:
    """Have the file of this URL at `target`, executable.

    Raises UnavailableError if the server cannot be reached, does not have the file or keeps breaking off, and
    ClusterError if the checksum is wrong; a file with a wrong checksum is removed.
    """
    patience = patience or Patience()
    expected = _checksum(checksum_url, patience)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    was_resumed = partial.exists()
    _download(url, partial, patience)
    found = _sha256(partial)
    if found != expected and was_resumed:
        # The part may be of another file: once more, from the start.
        partial.unlink()
        _download(url, partial, patience)
        found = _sha256(partial)
    if found != expected:
        partial.unlink()
        raise ClusterError(
            f"{url} has the SHA-256 {found}, but {checksum_url} says {expected}; the file was removed. "
            "If this happens again, something between here and there changes files"
        )
    partial.chmod(0o755)
    partial.replace(target)


def _checksum(url: str, patience: Patience) -> str:
    try:
        with _open(url, patience.answer_seconds) as response:
            text = response.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{url}: {_why(error)}") from error
    found = re.match(r"[0-9a-f]{64}\b", text.strip().lower())
    if found is None:
        # A proxy's login page, for instance.
        raise UnavailableError(f"{url} answers with something that is not a SHA-256: {text.strip()[:60]!r}")
    return found[0]


def _download(url: str, partial: Path, patience: Patience) -> None:
    """Bring `partial` to its end; an attempt that brings nothing is repeated after a pause."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            if _continue(url, partial, patience):
                return
            error: Exception | None = None
        except urllib.error.HTTPError as refusal:
            if refusal.code == 416:  # the part is longer than the file
                partial.unlink()
            elif refusal.code != 429 and refusal.code < 500:
                raise UnavailableError(f"{url}: {_why(refusal)}") from refusal
            error = refusal
        except (OSError, http.client.HTTPException) as broken:
            error = broken
        failures = 0 if _size(partial) > before else failures + 1
        if failures >= patience.retries:
            raise UnavailableError(f"{url}: {_why(error) if error else 'the connection was cut off'}") from error
        why = _why(error) if error else "the connection was cut off"
        say(f"{partial.stem}: {why}; resuming at {_megabytes(_size(partial))}")
        time.sleep(patience.pause_seconds * 2 ** max(failures - 1, 0))


def _continue(url: str, partial: Path, patience: Patience) -> bool:
    """Fetch what is missing, as far as the server sends it. Returns whether the file is complete."""
    start = _size(partial)
    with _open(url, patience.stall_seconds, start) as response:
        if response.status != 206:
            start = 0  # the server sends all of it again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with partial.open("ab" if start else "wb") as file:
            for chunk in _reported(response, partial.stem, start, total):
                file.write(chunk)
    return total is None or _size(partial) >= total


def _reported(response: Any, name: str, start: int, total: int | None) -> Iterator[bytes]:
    """The chunks of a response, with a line on the progress every few seconds."""
    began = reported = time.monotonic()
    done = start
    whole = f" of {_megabytes(total)}" if total else ""
    while chunk := response.read1(CHUNK):
        yield chunk
        done += len(chunk)
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS:
            reported = now
            say(f"{name}: {_megabytes(done)}{whole}, {_megabytes((done - start) / (now - began))}/s")


def _open(url: str, seconds: float, start: int = 0) -> Any:
    headers = {"User-Agent": "omnipipeline", **({"Range": f"bytes={start}-"} if start else {})}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=seconds)


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached ({error.reason})"
    if isinstance(error, TimeoutError):
        return "the server sends nothing"
    return f"the connection broke ({error})"


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"
