"""The folder that each running `omni up` keeps on this machine: its logs, and a note of where its API is.

`omni generate` finds a running pipeline through these notes. A note is believed only while its process lives.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

NOTE = "run.json"


@dataclass(frozen=True)
class Run:
    """A pipeline served by an `omni up`."""

    pid: int
    pipeline: str
    url: str


def root() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "omnipipeline" / "up"


def new_folder(pipeline: str) -> Path:
    """A folder of this process's own. Those of processes that are gone are removed, logs of failures included."""
    root().mkdir(parents=True, exist_ok=True)
    for old in root().iterdir():
        if not is_alive(owner(old)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-{pipeline}-", dir=root()))


def announce(folder: Path, run: Run) -> None:
    """Let others on this machine find the pipeline; the note appears whole or not at all."""
    draft = folder / f"{NOTE}.new"
    draft.write_text(json.dumps(asdict(run)))
    draft.replace(folder / NOTE)


def running() -> Iterator[Run]:
    """Every pipeline that an `omni up` of this user serves now."""
    for note in sorted(root().glob(f"*/{NOTE}")):
        try:
            run = Run(**json.loads(note.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if is_alive(run.pid):
            yield run


def owner(folder: Path) -> int:
    pid = folder.name.partition("-")[0]
    return int(pid) if pid.isdigit() else 0


def is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
