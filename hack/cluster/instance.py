"""One named cluster on this machine: where it keeps its state, its addresses, and the processes that are its own.

Several can run side by side (`make cluster` and `make test` do). Each lives in a directory of its own under ROOT and
in a sandbox of its own (see sandbox.py), and holds one /30 of 10.200.0.0/24 to be reached from this machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.cache import locked
from hack.cluster.programs import Programs
from hack.cluster.shell import Argument, ClusterError, run

ROOT = Path(os.environ.get("OMNI_CLUSTER_DIR") or "/var/tmp/omni-cluster")
NODE = "node1"
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"


@dataclass(frozen=True)
class Instance:
    """A cluster by its name. Holds no state: what is running is read from the directory and from /proc."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,14}", self.name):
            raise ClusterError(f"--name {self.name!r}: expected at most 15 of a-z, 0-9 and '-', a letter first")

    @property
    def state(self) -> Path:
        return ROOT / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def programs(self) -> Programs:
        """What it runs."""
        return Programs.load(self.state / "programs.json")

    def use(self, programs: Programs) -> None:
        """Have it run these from now on."""
        programs.save(self.state / "programs.json")

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd/containerd.sock"

    @property
    def host_address(self) -> str:
        """This machine's end of the link to the cluster."""
        return f"10.200.0.{4 * self._slot + 1}"

    @property
    def node_address(self) -> str:
        """The cluster's end: the API server listens on it, and it is the node's internal address."""
        return f"10.200.0.{4 * self._slot + 2}"

    @property
    def _slot(self) -> int:
        return int((self.state / "slot").read_text())

    def create(self) -> None:
        """Make the state directory and take the first free /30."""
        with locked("slots"):
            taken = {int(file.read_text()) for file in ROOT.glob("*/slot")}
            in_use = run("ip", "-oneline", "-4", "addr")
            free = (n for n in range(64) if n not in taken and f" 10.200.0.{4 * n + 1}/" not in in_use)
            slot = next(free, None)
            if slot is None:
                raise ClusterError("all 64 networks of 10.200.0.0/24 are taken; take a cluster down first")
            self.state.mkdir(parents=True)
            (self.state / "slot").write_text(f"{slot}\n")

    @property
    def sandbox_pid(self) -> int | None:
        """The process that holds the sandbox, as this machine numbers it; None when it is not running.

        Process ids are reused, so the command line must name this instance's own state directory.
        """
        try:
            pid = int((self.state / "sandbox.pid").read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if str(self.state).encode() in arguments else None

    @property
    def is_running(self) -> bool:
        return self.sandbox_pid is not None

    @property
    def init_pid(self) -> int:
        """Process 1 of the sandbox, as this machine numbers it. Raises ClusterError when there is no sandbox."""
        holder = self.sandbox_pid
        children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split() if holder else []
        if not children:
            start = f"python3 hack/cluster up --name {self.name}"
            raise ClusterError(f"the cluster {self.name!r} is not running; start it with `{start}`")
        return int(children[0])

    def inside(self, *argv: Argument) -> list[str]:
        """The command line that runs `argv` inside the sandbox."""
        return ["nsenter", "--target", str(self.init_pid), "--net", "--mount", "--pid", *(str(a) for a in argv)]
