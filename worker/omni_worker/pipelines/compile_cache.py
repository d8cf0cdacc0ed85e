"""Keeps what torch has compiled on the model volume, so that replicas that start later need not compile it again.

torch's own caches are folders of many small files: inductor's graphs and code, triton's kernels. They take locks, and a
request fails if they cannot write. So they stay on this host. A replica unpacks the archive of an earlier one into them
when it starts, and replaces the archive when it has compiled more. An archive is written under another name first, so
any number of replicas can read and write at one time, and nothing that is wrong with the volume stops a replica.
"""

import hashlib
import logging
import os
import platform
import sysconfig
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import torch

from omni_worker.pipelines.compilation import compilations

FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MAX_BYTES = 4 << 30
"""Of the files in an archive."""
SETTLE_SECONDS = 20.0
"""Between a compilation and the next archive, because compilations come in groups."""
UNUSED_SECONDS = 60 * 86400.0
"""After which an archive that nobody reads is removed: each version of the worker image has its own."""
UNFINISHED_SECONDS = 3600.0
"""After which a file that a killed replica was writing is removed."""
SUFFIX, UNFINISHED = ".tar.gz", ".unfinished"

log = logging.getLogger(__name__)


class CompileCache:
    """The archive of one model and kind of replica, and torch's caches of this process.

    archive: the file on the volume
    local: torch's caches, on this host; replicas that share the host share them
    """

    def __init__(self, folder: Path, model_digest: str, local: Path | None = None) -> None:
        name = f"{model_digest}-torch-{torch.__version__}-{_fingerprint()}"
        self.archive = folder / f"{name}{SUFFIX}"
        self.local = local or _own_folder(name)
        self._changed = threading.Event()
        self._seen: tuple[int, int] | None = None
        self._has_warned = False

    def start(self, writes: bool = True) -> None:
        """Have this process's compilations use the archive. Call it before anything is compiled.

        writes: whether to add to the archive what this process compiles
        """
        os.environ[FOLDER_VARIABLE] = str(self.local)
        began = time.monotonic()
        if count := self.restore():
            log.info("unpacked %d compiled files of %s in %.1f s", count, self.archive, time.monotonic() - began)
        if writes:
            compilations.on_end.append(self._changed.set)
            threading.Thread(target=self._keep_saving, name="compile-cache", daemon=True).start()

    def restore(self) -> int:
        """Unpack the files of the archive that are not here. Returns how many; it logs why it cannot read the rest."""
        count = 0
        try:
            self._seen = _version(self.archive)
            with tarfile.open(self.archive) as archive:
                for member in _files(archive):
                    count += self._unpack(archive, tarfile.data_filter(member, str(self.local)))
            with suppress(OSError):  # the volume may be read-only
                os.utime(self.archive)  # it is in use
        except FileNotFoundError:
            pass
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
            log.warning("the compile cache %s cannot be read, and torch compiles again: %s", self.archive, error)
        return count

    def save(self) -> bool:
        """Replace the archive by one of all files that are here and in the archive. Returns whether that worked."""
        unfinished = self.archive.with_name(f".{self.archive.name}-{platform.node()}-{os.getpid()}{UNFINISHED}")
        try:
            self.archive.parent.mkdir(parents=True, exist_ok=True)
            if self._seen != _version(self.archive):
                self.restore()  # what others have added
            files = [(path, path.stat().st_size) for path in self._local_files()]
            if sum(size for _, size in files) > MAX_BYTES:
                raise OSError(f"there are more than {MAX_BYTES >> 30} GiB of compiled files")
            with tarfile.open(unfinished, "x:gz", compresslevel=1) as archive:
                for path, _ in files:
                    archive.add(path, path.relative_to(self.local).as_posix(), recursive=False)
            unfinished.replace(self.archive)
            self._seen = _version(self.archive)
            self._remove_old()
        except (OSError, tarfile.TarError) as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            if not self._has_warned:
                self._has_warned = True
                log.warning("what torch compiled is not kept in %s: %s", self.archive, error)
            return False
        log.info("kept %d compiled files in %s", len(files), self.archive)
        return True

    def _keep_saving(self) -> None:
        while True:
            self._changed.wait()
            time.sleep(SETTLE_SECONDS)
            self._changed.clear()
            self.save()

    def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
        """Unpack one file as a whole. Returns False if it is here."""
        path, content = self.local / member.name, archive.extractfile(member)
        if content is None or path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=UNFINISHED, delete=False) as file:
            while chunk := content.read(1 << 20):
                file.write(chunk)
        Path(file.name).chmod(0o600 | (member.mode & 0o100))
        Path(file.name).replace(path)
        return True

    def _local_files(self) -> Iterator[Path]:
        """The compiled files, without locks and those that are being written."""
        for path in sorted(self.local.rglob("*")):
            is_passing = path.suffix in (".lock", ".tmp", UNFINISHED) or path.name.startswith((".", "tmp"))
            if path.is_file() and not path.is_symlink() and not is_passing and "locks" not in path.parts:
                yield path

    def _remove_old(self) -> None:
        """Remove archives that nobody uses, and files of replicas that were killed."""
        now = time.time()
        for path in self.archive.parent.iterdir():
            limit = UNFINISHED_SECONDS if path.suffix == UNFINISHED else UNUSED_SECONDS
            if path.name.endswith((SUFFIX, UNFINISHED)) and now - path.stat().st_mtime > limit:
                path.unlink(missing_ok=True)
                log.info("removed %s, which nobody used", path)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of an archive. Raises ValueError if they are too large."""
    size = 0
    for member in archive:
        size += member.size
        if size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 30} GiB")
        if member.isreg():
            yield member


def _version(path: Path) -> tuple[int, int] | None:
    """Something that differs between two archives of a name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size


def _fingerprint() -> str:
    """12 hex digits that differ between devices, and between worker images.

    Code for a CPU uses the instructions that it has, and torch checks no more than its kind.
    """
    if torch.cuda.is_available():
        device = [torch.cuda.get_device_name(), str(torch.cuda.get_device_capability()), str(torch.version.cuda)]
    else:
        device = [platform.machine(), *_cpu_features()]
    installed = distributions(path=[sysconfig.get_path(kind) for kind in ("purelib", "platlib")])
    packages = sorted({f"{one.metadata['Name']}=={one.version}" for one in installed})
    return hashlib.sha256("\n".join([*device, platform.python_version(), *packages]).encode()).hexdigest()[:12]


def _cpu_features() -> list[str]:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((sorted(line.split()) for line in lines if line.lower().startswith(("flags", "features"))), [])
    return [platform.processor()]


def _own_folder(name: str) -> Path:
    """A folder in /tmp that only this user can write."""
    parent = Path(tempfile.gettempdir()) / f"omni-compile-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    found = parent.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        parent = Path(tempfile.mkdtemp(prefix="omni-compile-"))
    folder = parent / name
    folder.mkdir(exist_ok=True)
    return folder
