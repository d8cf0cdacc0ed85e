"""What this machine must be, and the Debian packages the cluster needs on it.

`require_machine` is the one place that decides whether the embedded cluster can run here at all; everything after it
may assume root on Debian 12.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hack.cluster.cache import locked
from hack.cluster.shell import ClusterError, run, step, succeeds

RUNTIME = [
    "etcd-server",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "iproute2",
    "openssl",
    "dnsmasq-base",
]
IMAGES = ["buildah", "skopeo", "debootstrap", "busybox-static"]
BUILD = ["golang-1.19-go", "golang-github-modern-go-reflect2-dev", "dpkg-dev"]

ELSEWHERE = "use a cluster of your own with OMNI_KUBECONFIG=/path/to/kubeconfig, or CLUSTER=kind where kind is there"


def require_machine() -> None:
    """Raise ClusterError, in one line, where the embedded cluster cannot run."""
    if os.geteuid() != 0:
        raise ClusterError(f"the embedded cluster needs root (it makes network namespaces and containers); {ELSEWHERE}")
    release = Path("/etc/os-release")
    lines = release.read_text().splitlines() if release.exists() else []
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    system = facts.get("PRETTY_NAME", "an unknown system").strip('"')
    if facts.get("ID", "").strip('"') != "debian" or facts.get("VERSION_ID", "").strip('"') != "12":
        raise ClusterError(f"the embedded cluster needs Debian 12 and this is {system}; {ELSEWHERE}")
    if shutil.which("apt-get") is None:
        raise ClusterError(f"the embedded cluster needs apt-get, which is not on the PATH; {ELSEWHERE}")


def install(packages: list[str]) -> None:
    """Install those of these Debian packages that are not there yet.

    Only one process at a time: `apt-get update` fails while another one runs, instead of waiting for it.
    """
    if all(map(_installed, packages)):
        return
    with locked("packages"):
        missing = [name for name in packages if not _installed(name)]
        if not missing:
            return
        with step(f"installing {', '.join(missing)}"):
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            run("apt-get", "update", "-qq", env=quiet)
            run(
                "apt-get", "install", "-y", "-qq", "--no-install-recommends", "-oDPkg::Lock::Timeout=600", *missing,
                env=quiet,
            )  # fmt: skip


def source_archive() -> str:
    """The archive that apt is set up with here: the first address that offers the suite bookworm."""
    for line in run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)").splitlines():
        uri, release = line.split()
        if release == "bookworm" and "debian" in uri:
            return uri
    raise ClusterError("apt knows no archive with the suite bookworm; look at /etc/apt/sources.list.d")


def _installed(package: str) -> bool:
    return succeeds("dpkg-query", "--show", package) and "install ok installed" in run(
        "dpkg-query", "--show", "--showformat=${Status}", package
    )
