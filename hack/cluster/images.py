"""The project's two images: built with buildah from the same Dockerfiles that Docker uses, and loaded into the node.

No registry is needed: the base image is made with debootstrap under the name the Dockerfiles use. What is built is kept
in the cache as an OCI layout with uncompressed layers, so that after a change of code only the last, small layer is
written, and only what the node does not have yet is sent to it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from hack.cluster import packages
from hack.cluster.cache import CACHE, locked
from hack.cluster.instance import Instance
from hack.cluster.shell import ClusterError, run, say, step, succeeds

PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("operator", "worker")
BASE = "docker.io/library/debian:bookworm-slim"
LAYOUTS = CACHE / "images"
BUILDAH = [
    "buildah",
    "--root",
    str(CACHE / "buildah"),
    "--runroot",
    str(CACHE / "buildah-run"),
    "--storage-driver=overlay",
]


def image_name(name: str) -> str:
    """The name under which the node knows an image of this project."""
    return f"localhost/omnipipeline/{name}:dev"


def update_images(instance: Instance | None) -> None:
    """Bring both images up to date with the working tree: in the cache, and on an instance's node."""
    packages.install(packages.IMAGES)
    with locked("images"):
        try:
            _build_images()
        finally:
            _release_store()
        if instance is None:
            return
        for name in NAMES:
            with step(f"loading the image {name}"):
                _load_layout(instance, LAYOUTS / name)


def _build_images() -> None:
    for name in NAMES:
        with tempfile.TemporaryDirectory(prefix="omni-images-") as work:
            context = Path(work) / "context"
            inputs = _stage(context, name)
            record = LAYOUTS / f"{name}.inputs"
            if record.exists() and record.read_text() == inputs:
                say(f"image {name}: nothing has changed since it was built")
                continue
            with step(f"building the image {name}"):
                _ensure_base()
                _build(name, context, Path(work))
                record.write_text(inputs)


def load_archive(instance: Instance, archive: Path) -> None:
    """Import an image saved as a tar (OCI or Docker); it keeps the name that is written in it."""
    if not archive.exists():
        raise ClusterError(f"there is no image archive {archive}")
    run(*_ctr(instance, "images", "import", "--all-platforms", archive.resolve()))


def build_archive(dockerfile: str, context: Path, name: str, archive: Path) -> None:
    """Build an image that needs no base, such as one of a model, and save it under its name as a tar (OCI)."""
    packages.install(packages.IMAGES)
    with locked("images"), tempfile.NamedTemporaryFile("w", suffix=".Dockerfile") as file:
        file.write(dockerfile)
        file.flush()
        run(*BUILDAH, "bud", "--isolation", "chroot", "--pull-never", "--file", file.name, "--tag", name, context)
        run(*BUILDAH, "push", name, f"oci-archive:{archive}:{name}")
        run(*BUILDAH, "rmi", name)
        _release_store()


def pause_image() -> Path:
    """The archive of the image that holds a pod's namespaces: busybox's sleep and nothing else."""
    archive = CACHE / "pause.tar"
    if not archive.exists():
        packages.install(packages.IMAGES)
        CACHE.mkdir(parents=True, exist_ok=True)
        container = run(*BUILDAH, "from", "scratch").strip()
        run(*BUILDAH, "copy", container, "/bin/busybox", "/bin/sleep")
        run(*BUILDAH, "config", "--entrypoint", '["/bin/sleep", "2147483647"]', container)
        fresh = archive.with_suffix(".new")
        run(*BUILDAH, "commit", "--rm", container, f"oci-archive:{fresh}:localhost/pause:1")
        fresh.replace(archive)
        _release_store()
    return archive


def _release_store() -> None:
    """Undo the mount that buildah leaves on its own store, so that the cache is nothing but files again."""
    succeeds("umount", CACHE / "buildah/overlay")


# ---- building


def _stage(context: Path, name: str) -> str:
    """Copy what .dockerignore lets through, without its times, and return a digest of it all.

    A fresh clone has new times on every file, and buildah would take them for changes.
    """
    digest = hashlib.sha256(f"{name}{build_arguments(name)}".encode())
    allowed = [
        line[1:].strip() for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    sources = [PROJECT / each for each in allowed]
    files = [f for s in sources for f in (s.rglob("*") if s.is_dir() else [s]) if f.is_file()]
    for file in sorted(files):
        if "__pycache__" in file.parts:
            continue
        relative = file.relative_to(PROJECT)
        copy = context / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copy.chmod(0o644)
        if relative.name != "Dockerfile" or relative.parent.name == name:
            digest.update(f"{relative}\0".encode() + file.read_bytes())
    for path in [context, *context.rglob("*")]:
        os.utime(path, (0, 0))
    return digest.hexdigest()


def _ensure_base() -> None:
    """Have the base image in buildah's store: Debian 12's own files, as debootstrap puts them together."""
    if succeeds(*BUILDAH, "inspect", "--type", "image", BASE):
        return
    with step("making the base image with debootstrap"):
        container = run(*BUILDAH, "from", "scratch").strip()
        root = Path(run(*BUILDAH, "mount", container).strip())
        run("debootstrap", "--variant=minbase", "bookworm", root, packages.source_archive())
        for leftover in (
            "var/cache/apt/archives",
            "var/lib/apt/lists",
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
        ):
            shutil.rmtree(root / leftover, ignore_errors=True)
            (root / leftover).mkdir()
        run(*BUILDAH, "umount", container)
        run(
            *BUILDAH,
            "config",
            "--cmd",
            '["bash"]',
            "--env",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            container,
        )
        run(*BUILDAH, "commit", "--rm", container, BASE)


def _build(name: str, context: Path, work: Path) -> None:
    LAYOUTS.mkdir(parents=True, exist_ok=True)
    log = LAYOUTS / f"{name}.log"
    log.unlink(missing_ok=True)
    run(*BUILDAH, "rm", "--all")  # what a build that was killed left behind
    run(
        *BUILDAH, "bud", "--isolation", "chroot", "--layers", "--pull-never", *_host_settings(work),
        *build_arguments(name),
        "--file", context / name / "Dockerfile", "--tag", image_name(name), context, log=log,
    )  # fmt: skip
    # skopeo, because buildah would compress every layer again on each push.
    source = f"containers-storage:[overlay@{CACHE}/buildah+{CACHE}/buildah-run]{image_name(name)}"
    target = f"oci:{LAYOUTS / name}:{image_name(name)}"
    run("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, target, log=log)
    _prune(LAYOUTS / name)
    # Nothing is found if that layer was built earlier.
    if found := re.search(r"^the image has torch==(\S+)", log.read_text(errors="replace"), re.MULTILINE):
        say(f"image {name}: torch {found[1]}, {torch_build(found[1])}")


def torch_build(version: str) -> str:
    """Which of the builds of torch this is, and what it costs."""
    if version.endswith("+cpu"):
        return "the build for CPUs"
    return "PyPI's build, which brings CUDA and runs on CPUs too; the image is about 4 GB larger"


def build_arguments(name: str) -> list[str]:
    """Where the worker's torch comes from: TORCH_INDEX of the environment, pip's own settings, or the default."""
    if name != "worker":
        return []
    index = os.environ.get("TORCH_INDEX", "" if _has_own_torch() else None)
    return [] if index is None else ["--build-arg", f"TORCH_INDEX={index}"]


def _has_own_torch() -> bool:
    """Whether pip finds a CPU build of torch as it is set up here, without being told where PyTorch keeps them."""
    folders = [Path(each) for each in _pip_settings().get("find-links", [])]
    return any(next(folder.glob("torch-*+cpu-*.whl"), None) for folder in folders if folder.is_dir())


def _pip_settings() -> dict[str, list[str]]:
    """What pip is told on this machine by its configuration and environment: setting -> values."""
    settings: dict[str, list[str]] = {}
    if not succeeds("python3", "-m", "pip", "--version"):
        return settings
    for line in run("python3", "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        values = settings.setdefault(key.rpartition(".")[2], [])
        values += [v for v in " ".join(shlex.split(value)).split() if v not in values]
    return settings


def _host_settings(work: Path) -> list[str]:
    """Mounts that give the build what this machine's own apt and pip use: proxies, mirrors, wheels, certificates."""
    mounts: dict[str, Path] = {}
    apt = work / "apt.conf"
    told = [
        line for line in run("apt-config", "dump").splitlines() if line.startswith("Acquire::") and '""' not in line
    ]
    apt.write_text("\n".join(told) + "\n")
    mounts["/etc/apt/apt.conf.d/99host"] = apt
    lines = ["[global]", "disable-pip-version-check = true", "root-user-action = ignore"]
    for key, values in _pip_settings().items():
        if key == "cert":
            mounts["/etc/ssl/host-certificates.pem"] = Path(values[-1])
            lines.append("cert = /etc/ssl/host-certificates.pem")
        elif key in (
            "index-url",
            "extra-index-url",
            "find-links",
            "trusted-host",
            "proxy",
            "default-timeout",
            "timeout",
        ):
            lines.append(f"{key} = {' '.join(values)}")
            for path in (Path(v.removeprefix("file://")) for v in values):
                if path.is_absolute() and path.exists():
                    top = next((p for p in [path, *path.parents] if p.parent.parent == Path("/")), path)
                    mounts[str(top)] = top
    pip = work / "pip.conf"
    pip.write_text("\n".join(lines) + "\n")
    mounts["/etc/pip.conf"] = pip
    return [part for target, source in mounts.items() for part in ("--volume", f"{source}:{target}:ro")]


# ---- moving


def _blobs(layout: Path) -> list[str]:
    """The digests that a layout's index leads to: manifests, configurations, layers."""
    found: list[str] = []
    waiting = json.loads((layout / "index.json").read_text())["manifests"]
    while waiting:
        each = waiting.pop()
        found.append(each["digest"])
        if "manifest" in each.get("mediaType", "") or "index" in each.get("mediaType", ""):
            content = json.loads(_blob(layout, each["digest"]).read_text())
            waiting += [*content.get("manifests", []), *content.get("layers", [])]
            waiting += [content["config"]] if "config" in content else []
    return found


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _prune(layout: Path) -> None:
    """Remove what earlier builds left in a layout: an index keeps every image that ever had the name."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] = [each for each in index["manifests"] if "annotations" in each]
    (layout / "index.json").write_text(json.dumps(index))
    kept = {_blob(layout, digest) for digest in _blobs(layout)}
    for file in (layout / "blobs").rglob("*"):
        if file.is_file() and file not in kept:
            file.unlink()


def _load_layout(instance: Instance, layout: Path) -> None:
    """Send an image to the node, less the layers that are there."""
    there = set(run(*_ctr(instance, "content", "ls", "--quiet")).split())
    command = [str(a) for a in _ctr(instance, "images", "import", "--all-platforms", "-")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as importer:
        assert importer.stdin is not None
        assert importer.stderr is not None
        try:
            with tarfile.open(fileobj=importer.stdin, mode="w|", bufsize=1 << 20) as archive:
                for digest in _blobs(layout):
                    # A manifest is always sent: it is what ctr reads the rest from.
                    blob = _blob(layout, digest)
                    if digest not in there or blob.stat().st_size < 1 << 16:
                        archive.add(blob, arcname=blob.relative_to(layout).as_posix())
                for name in ("oci-layout", "index.json"):
                    data = (layout / name).read_bytes()
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
            importer.stdin.close()
        except BrokenPipeError:
            pass  # ctr has given up, and says below why
        said = importer.stderr.read().decode(errors="replace").strip()
    if importer.returncode:
        raise ClusterError(f"the node did not take the image {layout.name}: {said}")


def _ctr(instance: Instance, *argv: str | Path) -> list[str]:
    return instance.inside(
        instance.programs.find("ctr"), "--address", instance.containerd_socket, "--namespace", "k8s.io", *argv
    )
