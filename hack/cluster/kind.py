"""The same verbs on kind and Docker, for machines that have both."""

from __future__ import annotations

import json
from pathlib import Path

from hack.cluster.images import NAMES as IMAGES
from hack.cluster.images import PROJECT, build_arguments, image_name
from hack.cluster.programs import NAMES
from hack.cluster.shell import ClusterError, run, step, succeeds


def require_kind() -> None:
    """Raise ClusterError, in one line, where kind cannot be used."""
    for program in ("kind", "docker", "kubectl"):
        if not succeeds(program, "version"):
            raise ClusterError(f"--kind needs a working {program!r}, and `{program} version` fails here")


def up(name: str, kubernetes: str = "newest") -> None:
    """Have it running. `newest` is what this kind has by default; kind publishes images of other versions."""
    version = NAMES.get(kubernetes, kubernetes)
    image = [] if kubernetes == "newest" else ["--image", f"kindest/node:v{version}"]
    if name not in run("kind", "get", "clusters").split():
        with step("creating the kind cluster"):
            run("kind", "create", "cluster", "--name", name, "--wait", "180s", *image)


def images(name: str) -> None:
    for each in IMAGES:
        with step(f"building and loading the image {each}"):
            file = PROJECT / each / "Dockerfile"
            run("docker", "build", *build_arguments(each), "--file", file, "--tag", image_name(each), PROJECT)
            run("kind", "load", "docker-image", image_name(each), "--name", name)


def load(name: str, archives: list[Path]) -> None:
    for archive in archives:
        run("kind", "load", "image-archive", archive, "--name", name)


def gpus(name: str, count: int) -> None:
    patch = {"status": {where: {"nvidia.com/gpu": str(count)} for where in ("capacity", "allocatable")}}
    run(
        "kubectl", "--context", f"kind-{name}", "patch", "node", f"{name}-control-plane", "--subresource=status",
        "--type=merge", "--patch", json.dumps(patch),
    )  # fmt: skip


def kubeconfig(name: str) -> Path:
    path = Path.home() / ".kube" / f"omni-kind-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(run("kind", "get", "kubeconfig", "--name", name))
    return path


def status(name: str) -> str:
    return "running" if name in run("kind", "get", "clusters").split() else "not running"


def down(name: str) -> None:
    run("kind", "delete", "cluster", "--name", name)
    kubeconfig_path = Path.home() / ".kube" / f"omni-kind-{name}"
    kubeconfig_path.unlink(missing_ok=True)
