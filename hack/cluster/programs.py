"""Which programs of Kubernetes a cluster runs, and where they come from.

`choose` takes them from the folder that OMNI_KUBERNETES names, else from the cache, else it downloads the official
release, else it compiles the Kubernetes 1.20 whose source Debian 12 carries. It says in one line which, and why.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import build, packages
from hack.cluster.cache import CACHE, locked
from hack.cluster.download import UnavailableError, fetch
from hack.cluster.shell import ClusterError, run, say, step

NEWEST, OLDEST, COMPILED = "1.37.2", "1.35.4", build.KUBERNETES_VERSION
"""The newest Kubernetes, the oldest that is maintained, and the one that needs only Debian's source."""
NAMES = {"newest": NEWEST, "oldest": OLDEST}
CONTAINERD = "2.1.9"

SERVERS = tuple(build.COMPONENTS)
RUNTIME = ("containerd", "containerd-shim-runc-v2", "ctr")
# Kubelets from this minor version on refuse containerd 1.
FIRST_WITH_CONTAINERD_2 = 36

KUBERNETES_URL = os.environ.get("OMNI_KUBERNETES_MIRROR") or "https://dl.k8s.io/release"
CONTAINERD_URL = (
    os.environ.get("OMNI_CONTAINERD_MIRROR") or "https://github.com/containerd/containerd/releases/download"
)
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Programs:
    """The programs of one cluster: a version of Kubernetes, and the folders that are looked into before the PATH."""

    version: str
    folders: tuple[Path, ...]

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])

    @property
    def path(self) -> str:
        """The PATH of processes that start further programs, as containerd does."""
        return os.pathsep.join([*map(str, self.folders), os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])

    def find(self, name: str) -> str:
        """A program's path, or its bare name where it is the machine's own."""
        return next((str(folder / name) for folder in self.folders if (folder / name).exists()), name)

    def has(self, name: str) -> bool:
        return self.find(name) != name

    def save(self, file: Path) -> None:
        file.write_text(json.dumps({"version": self.version, "folders": [str(each) for each in self.folders]}))

    @staticmethod
    def load(file: Path) -> Programs:
        content = json.loads(file.read_text())
        return Programs(content["version"], tuple(Path(each) for each in content["folders"]))


def choose(wanted: str = "newest", *, with_node: bool = True) -> Programs:
    """Have the programs of a version at hand; the containerd that its kubelet needs too, if there will be a node.

    `newest` and `oldest` are preferences: the nearest that can be had is taken. A version is taken or is an error.
    Raises ClusterError.
    """
    version = NAMES.get(wanted, wanted)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ClusterError(f"--kubernetes {wanted}: expected newest, oldest or a version such as {NEWEST}")
    given = os.environ.get("OMNI_KUBERNETES")
    if given:
        folder = _folder(Path(given).absolute())
        if folder is None:
            raise ClusterError(f"OMNI_KUBERNETES={given}: expected a folder with {', '.join(SERVERS)}")
        found = _version(folder)
        folders = tuple(dict.fromkeys((folder, Path(given).absolute())))
        if wanted not in NAMES and found != version:
            raise ClusterError(f"OMNI_KUBERNETES={given} holds Kubernetes {found}, but --kubernetes asks for {version}")
        return _announced(_with_runtime(Programs(found, folders), with_node), f"from {folder} (OMNI_KUBERNETES)")
    try:
        return _exactly(version, with_node)
    except UnavailableError as error:
        if wanted not in NAMES:
            raise
        instead = f"{version} cannot be downloaded: {error}"
    for other in (NEWEST, OLDEST, COMPILED):
        folder = _cached(other)
        if other == version or folder is None:
            continue
        with contextlib.suppress(UnavailableError):
            programs = _with_runtime(Programs(other, (folder,)), with_node)
            return _announced(programs, f"from the cache ({folder}); {instead}")
    return _announced(_compiled(), f"compiled from Debian's source; {instead}")


def unpack(archive: Path) -> None:
    """Put the programs of an archive into the cache: the five of Kubernetes, and others that lie beside them."""
    if not archive.is_file():
        raise ClusterError(f"there is no archive {archive}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=CACHE) as scratch:
        with tarfile.open(archive) as content:
            _extract(content, scratch)
        folders = (_folder(each) for each in [Path(scratch), *sorted(Path(scratch).rglob("*/"))])
        folder = next((each for each in folders if each), None)
        if folder is None:
            raise ClusterError(f"{archive}: expected an archive with {', '.join(SERVERS)}")
        version = _version(folder)
        with locked(f"kubernetes-{version}"):
            if _cached(version):
                say(f"Kubernetes {version} is in the cache already")
                return
            target = CACHE / f"kubernetes-{version}"
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
    say(f"Kubernetes {version} is in the cache now")


def _exactly(version: str, with_node: bool) -> Programs:
    """This version from the cache, else downloaded, else (if it is Debian's) compiled."""
    folder = _cached(version)
    if folder:
        return _announced(_with_runtime(Programs(version, (folder,)), with_node), f"from the cache ({folder})")
    if version == COMPILED:
        return _announced(_compiled(), "compiled from Debian's source")
    # What may be missing elsewhere comes first: the small archive of containerd.
    programs = _with_runtime(Programs(version, (CACHE / f"kubernetes-{version}/bin",)), with_node)
    _download_servers(version)
    return _announced(programs, f"downloaded from {KUBERNETES_URL}")


def _compiled() -> Programs:
    build.build()
    return Programs(COMPILED, (build.BIN,))


def _announced(programs: Programs, why: str) -> Programs:
    say(f"Kubernetes {programs.version} {why}")
    return programs


def _folder(start: Path) -> Path | None:
    """The folder with all servers: this one, or where an official archive has them below it."""
    places = (start, start / "bin", start / "server/bin", start / "kubernetes/server/bin")
    return next((place for place in places if not _missing(place, SERVERS)), None)


def _extract(content: tarfile.TarFile, folder: str) -> None:
    """Unpack without leaving the folder, with the Pythons that know how."""
    content.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
    content.extractall(folder)


def _cached(version: str) -> Path | None:
    return _folder(CACHE / f"kubernetes-{version}")


def _missing(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _version(folder: Path) -> str:
    said = run(folder / "kube-apiserver", "--version")
    found = re.search(r"v(\d+\.\d+\.\d+)", said)
    if found is None:
        raise ClusterError(f"{folder}/kube-apiserver --version: expected a version, and it says {said.strip()!r}")
    return found[1]


# ---- containerd


def _with_runtime(programs: Programs, with_node: bool) -> Programs:
    """The same with the containerd that the version's kubelet needs. Raises UnavailableError if it cannot be had."""
    if not with_node or programs.minor < FIRST_WITH_CONTAINERD_2 or _runtime_at_hand(*programs.folders):
        return programs
    folder = CACHE / f"containerd-{CONTAINERD}"
    if _missing(folder, RUNTIME):
        _download_containerd(folder)
    return Programs(programs.version, (*programs.folders, folder))


def _runtime_at_hand(*folders: Path) -> bool:
    """Whether a containerd that current kubelets take is in one of the folders, or is the machine's own."""
    if any(not _missing(folder, RUNTIME) for folder in folders):
        return True
    own = shutil.which("containerd")
    found = re.search(r"\bv?(\d+)\.\d+\.\d+", run(own, "--version")) if own else None
    return found is not None and int(found[1]) >= 2


def _download_containerd(folder: Path) -> None:
    name = f"containerd-{CONTAINERD}-linux-{ARCHITECTURE}.tar.gz"
    url = f"{CONTAINERD_URL}/v{CONTAINERD}/{name}"
    archive = CACHE / name
    with locked(name):
        if not _missing(folder, RUNTIME):
            return
        with step(f"downloading containerd {CONTAINERD} from {CONTAINERD_URL}"):
            fetch(url, f"{url}.sha256sum", archive)
        with tempfile.TemporaryDirectory(prefix="unpacking-", dir=CACHE) as scratch:
            with tarfile.open(archive) as content:
                _extract(content, scratch)
            if missing := _missing(Path(scratch) / "bin", RUNTIME):
                raise ClusterError(f"{url}: expected {', '.join(missing)} in its folder bin")
            shutil.rmtree(folder, ignore_errors=True)
            (Path(scratch) / "bin").rename(folder)
        archive.unlink()


# ---- Kubernetes


def _download_servers(version: str) -> None:
    target = CACHE / f"kubernetes-{version}/bin"
    with locked(f"kubernetes-{version}"):
        missing = _missing(target, SERVERS)
        for number, name in enumerate(missing, 1):
            url = f"{KUBERNETES_URL}/v{version}/bin/linux/{ARCHITECTURE}/{name}"
            with step(f"downloading {name} {version} ({number} of {len(missing)})"):
                fetch(url, f"{url}.sha256", target / name)


def debian_packages(programs: Programs) -> list[str]:
    """The packages that a cluster needs, without those whose programs are at hand."""
    brought = {"etcd-server": "etcd", "containerd": "containerd", "runc": "runc"}
    return [each for each in packages.RUNTIME if not (each in brought and programs.has(brought[each]))]
