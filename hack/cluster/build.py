"""Kubernetes' own binaries, compiled once from Debian's source package and kept in the cache.

Debian 12 carries the source of Kubernetes 1.20 but packages no server, and no registry of prebuilt ones can be assumed.
About five minutes on two cores. A build that was interrupted goes on where it stopped; two at once take turns.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hack.cluster import packages
from hack.cluster.cache import CACHE, locked
from hack.cluster.shell import run, say, step

KUBERNETES_VERSION = "1.20.2"
COMPONENTS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"]
BIN = CACHE / f"kubernetes-{KUBERNETES_VERSION}" / "bin"

REPOSITORY = "k8s.io/kubernetes"
REFLECT2 = "modern-go/reflect2"


def build() -> None:
    """Have every binary in BIN; does nothing when they are there."""
    if _missing() == []:
        return
    with locked("build-kubernetes"):
        if _missing() == []:
            return  # another process built them while this one waited
        packages.install([*packages.RUNTIME, *packages.BUILD])
        work = CACHE / "build"
        if not (work / "prepared").exists():
            _prepare(work)
        _compile(work)
        shutil.rmtree(work)


def _missing() -> list[str]:
    return [name for name in COMPONENTS if not (BIN / name).exists()]


def _prepare(work: Path) -> None:
    """Fetch and unpack the source, mend it for the Go of Debian 12, and generate what its package leaves out."""
    shutil.rmtree(work, ignore_errors=True)
    for directory in ("lists/partial", "archives/partial"):
        (work / directory).mkdir(parents=True)
    with step("fetching the source of Kubernetes from Debian's archive"):
        # A private view of apt that knows the source packages; the machine's own configuration stays as it is.
        (work / "sources.list").write_text(f"deb-src {packages.source_archive()} bookworm main\n")
        view = [
            f"-oDir::Etc::sourcelist={work}/sources.list",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::Lists={work}/lists",
            f"-oDir::Cache={work}",
            "-oAPT::Sandbox::User=root",
        ]
        run("apt-get", *view, "update", "-qq")
        run("apt-get", *view, "source", "-qq", "--download-only", "kubernetes", cwd=work)
        source = _source(work)
        source.mkdir(parents=True)
        run("tar", "xf", next(work.glob("kubernetes_*.orig.tar.gz")), "--strip-components=1", "-C", source)
    # reflect2 1.0.1, vendored here, crashes on Go 1.18 and later; Debian packages 1.0.2.
    vendored = source / "vendor/github.com" / REFLECT2
    shutil.rmtree(vendored)
    shutil.copytree(
        Path("/usr/share/gocode/src/github.com") / REFLECT2,
        vendored,
        ignore=shutil.ignore_patterns("*_test.go", "go.mod"),
    )
    with step("generating the OpenAPI definitions of Kubernetes"):
        _generate_openapi(work)
    (work / "prepared").touch()


def _generate_openapi(work: Path) -> None:
    source, env = _source(work), _go_environment(work)
    generator = work / "openapi-gen"
    run("go", "build", "-o", generator, f"{REPOSITORY}/vendor/k8s.io/kube-openapi/cmd/openapi-gen", cwd=source, env=env)
    skipped = ("_test", "zz_generated", "sample-apiserver", "testdata", "code-generator/_", "examples")
    tagged = set()
    for root in ("pkg", "cmd", "staging/src/k8s.io"):
        for file in (source / root).rglob("*.go"):
            name = file.relative_to(source).as_posix()
            if any(word in name for word in skipped):
                continue
            if any(line.startswith("// +k8s:openapi-gen=") for line in file.read_text().splitlines()):
                package = name.rpartition("/")[0]
                tagged.add(f"{REPOSITORY}/" + package.replace("staging/src/", "vendor/", 1))
    run(
        generator, "-O", "zz_generated.openapi", "-h", "hack/boilerplate/boilerplate.generatego.txt",
        "-i", ",".join(sorted(tagged)), "-p", f"{REPOSITORY}/pkg/generated/openapi", "-r", work / "violations",
        "--output-base", work / "gopath/src", cwd=source, env=env,
    )  # fmt: skip


def _compile(work: Path) -> None:
    """Compile what is missing; each binary appears in BIN only when it is whole."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    stamps = {"Version": f"v{KUBERNETES_VERSION}", "Major": major, "Minor": minor}
    flags = " ".join(
        ["-s -w"]
        + [
            f"-X {REPOSITORY}/vendor/k8s.io/{package}.git{key}={value}"
            for package in ("component-base/version", "client-go/pkg/version")
            for key, value in stamps.items()
        ]
    )
    BIN.mkdir(parents=True, exist_ok=True)
    todo = _missing()
    say(f"compiling {len(todo)} programs of Kubernetes {KUBERNETES_VERSION}; about 5 minutes on two cores, once")
    for number, name in enumerate(todo, 1):
        with step(f"compiling {name} ({number} of {len(todo)})"):
            run(
                "go", "build", "-trimpath", "-ldflags", flags, "-o", work / name, f"./cmd/{name}",
                cwd=_source(work), env=_go_environment(work),
            )  # fmt: skip
            (work / name).replace(BIN / name)


def _source(work: Path) -> Path:
    return work / "gopath/src" / REPOSITORY


def _go_environment(work: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"/usr/lib/go-1.19/bin:{os.environ['PATH']}",
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
        "GOPATH": str(work / "gopath"),
        "GOCACHE": str(work / "gocache"),
    }
