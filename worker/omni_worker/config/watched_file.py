"""A file that others replace while a process runs, such as one of a ConfigMap: tells when it has changed."""

from os import stat_result
from pathlib import Path

FileVersion = tuple[int, int, int, int]


def version_of(status: stat_result) -> FileVersion:
    """What changes when a file is written to or replaced."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class WatchedFile:
    """A file, and its version when it was last looked at."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._version = self._current()

    def has_changed(self) -> bool:
        """Whether the file is another one than at the last call, or than at the start. False while there is none."""
        before, now = self._version, self._current()
        if now is None or now == before:
            return False
        self._version = now
        return True

    def _current(self) -> FileVersion | None:
        try:
            return version_of(self.path.stat())
        except OSError:
            return None
