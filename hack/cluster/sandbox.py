"""The walls around a cluster: namespaces for its network, mounts and processes, all held by one process.

Everything the cluster runs, its pods included, lives inside. When the holder ends, for whatever reason, the kernel
stops every process, mount and interface within, so that stopping is one signal, a killed run leaves nothing but files,
and no process of anyone else's can be hit. The sandbox has no way out of this machine: one link leads to it, which
carries the API server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from hack.cluster.cache import locked
from hack.cluster.instance import ROOT, Instance
from hack.cluster.shell import Argument, ClusterError, run, succeeds, wait_until

CGROUPS = Path("/sys/fs/cgroup")
LINKS = Path("/sys/class/net")

# The holder's child is process 1 inside: it makes the place its own, says so, and then reaps what is orphaned to it.
# /run is new, so that nothing of the container runtime shows outside; the directories whose paths are fixed in
# Kubernetes and CNI are the instance's own.
FIXED = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
HOLD = """
import os, subprocess, sys, time
state = sys.argv[1]
call = lambda *argv: subprocess.run(argv, check=True)
call("mount", "--make-rshared", "/")
call("mount", "-t", "tmpfs", "tmpfs", "/run")
for path in sys.argv[2:]:
    os.makedirs(path, exist_ok=True)
    os.makedirs(state + path, exist_ok=True)
    call("mount", "--bind", state + path, path)
open(state + "/held", "w").close()
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""


def open_sandbox(instance: Instance) -> None:
    """Start the holder and lay the link to it. The instance's state directory must exist."""
    _make_cgroup(instance.name)
    with (instance.state / "sandbox.log").open("ab") as log:
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "python3", "-c", HOLD, str(instance.state), *FIXED],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip
    (instance.state / "sandbox.pid").write_text(f"{holder.pid}\n")
    hint = f"see {instance.state}/sandbox.log"
    wait_until("the cluster's sandbox", 30, (instance.state / "held").exists, hint)
    _lay_link(instance)


def start(instance: Instance, name: str, *argv: Argument) -> None:
    """Start a process of the cluster inside the sandbox; its output goes to NAME.log in the state directory."""
    with (instance.state / f"{name}.log").open("ab") as log:
        subprocess.Popen(
            instance.inside(*argv),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip


def close_sandbox(instance: Instance) -> None:
    """Stop everything inside and remove every trace of the instance; safe to repeat, and on half-made ones."""
    holder = instance.sandbox_pid
    if holder is not None:
        children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
        for pid in [*map(int, children), holder]:
            _kill(pid)
    _remove_link(instance.name)
    _remove_cgroup(instance.name)
    # Out of sight at once: nobody shall find a kubeconfig whose address already belongs to another cluster.
    trash = ROOT / f".{instance.name}.removing"
    if trash.exists():
        shutil.rmtree(trash)
    if instance.state.exists():
        instance.state.rename(trash)
        shutil.rmtree(trash)
    with locked("slots"):
        if ROOT.exists() and not any(ROOT.iterdir()):
            ROOT.rmdir()
            # Nobody's mounts hang on these now; those that were made for us are empty.
            for path in FIXED:
                with contextlib.suppress(OSError):
                    Path(path).rmdir()


def _lay_link(instance: Instance) -> None:
    link, host, node = instance.name, instance.host_address, instance.node_address
    run("ip", "link", "add", "name", link, "type", "veth", "peer", "name", "eth0", "netns", instance.init_pid)
    run("ip", "addr", "add", f"{host}/30", "dev", link)
    run("ip", "link", "set", "dev", link, "up")
    for command in (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "link", "set", "eth0", "up"),
        ("ip", "addr", "add", f"{node}/30", "dev", "eth0"),
        # A Service address needs a route before kube-proxy rewrites it; whatever is not rewritten ends here.
        ("ip", "link", "add", "void0", "type", "bridge"),
        ("ip", "link", "set", "void0", "up"),
        ("ip", "route", "add", "default", "dev", "void0"),
        ("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.route_localnet=1"),
    ):
        run(*instance.inside(*command))


def _remove_link(name: str) -> None:
    """Remove it now: the kernel may take a while to notice that nothing is left in the network at its other end."""
    for _ in range(300):
        if not (LINKS / name).exists():
            return
        succeeds("ip", "link", "delete", "dev", name)  # fails where the kernel has just begun to
        time.sleep(0.1)


def has_cgroup_v1() -> bool:
    """Whether this machine's controllers are in cgroup v1, also where a v2 tree without controllers lies beside it."""
    return not (CGROUPS / "cgroup.controllers").exists()


def _cgroup_roots() -> list[Path]:
    """Where cgroups are made: one unified tree, or (version 1) one tree for each controller."""
    if not has_cgroup_v1():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _make_cgroup(name: str) -> None:
    """The kubelet's own corner: two kubelets that shared one would clean up each other's pods."""
    for root in _cgroup_roots():
        if root == CGROUPS:
            _enable_controllers(root)
        (root / name).mkdir(exist_ok=True)


def _enable_controllers(root: Path) -> None:
    """Have the controllers of a v2 tree in the cgroups below it. Raises ClusterError if one that is needed is not."""
    for controller in (root / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # one that cannot be had there must not keep out the others
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
    enabled = (root / "cgroup.subtree_control").read_text().split()
    if missing := [each for each in ("cpu", "cpuset", "memory", "pids") if each not in enabled]:
        raise ClusterError(
            f"the kubelet needs the cgroup controllers {', '.join(missing)}, which {root}/cgroup.subtree_control does "
            "not take; in a container, start it with the host's cgroup namespace"
        )


def _remove_cgroup(name: str) -> None:
    """Remove it and all below; what was killed may take a moment to leave."""
    for root in _cgroup_roots():
        for _ in range(100):
            below = [Path(path) for path, _, _ in os.walk(root / name, topdown=False)]
            busy = False
            for path in below:
                try:
                    path.rmdir()
                except OSError:
                    busy = True
            if not busy:
                break
            time.sleep(0.1)


def _kill(pid: int) -> None:
    """Kill one process and wait until it is gone (a killed process 1 takes its namespace with it first)."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for _ in range(300):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.1)
