"""The folder of each running `omni up` on this machine: its logs, and a file with the address of its API.

The commands find a running pipeline through these files. A file counts only while its process lives.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

RUN_FILE = "run.json"


@dataclass(frozen=True)
class LocalRun:
    """A pipeline that an `omni up` serves; `pid` is that of `omni up`."""

    pid: int
    pipeline: str
    url: str


def runs_folder() -> Path:
    """The folder with the folders of all runs of this user."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "omnipipeline" / "up"


def new_run_folder(pipeline: str) -> Path:
    """Create the folder of this process, and delete those of processes that have ended, with their logs."""
    runs_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in runs_folder().iterdir():
        if not _is_alive(_pid_of(folder)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-{pipeline}-", dir=runs_folder()))


def publish(folder: Path, run: LocalRun) -> None:
    """Let other commands on this machine find the pipeline. The file appears atomically."""
    draft = folder / f"{RUN_FILE}.new"
    draft.write_text(json.dumps(asdict(run)))
    draft.replace(folder / RUN_FILE)


def live_runs() -> Iterator[LocalRun]:
    """Every pipeline that an `omni up` of this user serves now."""
    for file in sorted(runs_folder().glob(f"*/{RUN_FILE}")):
        try:
            run = LocalRun(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if _is_alive(run.pid):
            yield run


def _pid_of(folder: Path) -> int:
    """The process that created a folder; 0 if the name does not say."""
    pid = folder.name.partition("-")[0]
    return int(pid) if pid.isdigit() else 0


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
