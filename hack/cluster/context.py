"""Makes a cluster the one that a bare `kubectl` talks to, as kind does, and undoes that.

The entries go into the user's own kubeconfig ($KUBECONFIG, or ~/.kube/config) under the name "omnipipeline-NAME".
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from hack.cluster.instance import Instance
from hack.cluster.shell import ClusterError, say


def use(instance: Instance) -> None:
    """Add the cluster to the user's kubeconfig and make it the current context."""
    program = _kubectl()
    if program is None:
        raise ClusterError("there is no kubectl; `make install` brings one, in .venv/bin")
    name, pki = _name(instance), instance.state / "pki"
    for arguments in (
        [
            "set-cluster", name, "--embed-certs", f"--server=https://{instance.node_address}:6443",
            f"--certificate-authority={pki / 'ca.crt'}",
        ],
        [
            "set-credentials", name, "--embed-certs", f"--client-certificate={pki / 'admin.crt'}",
            f"--client-key={pki / 'admin.key'}",
        ],
        ["set-context", name, f"--cluster={name}", f"--user={name}"],
        ["use-context", name],
    ):  # fmt: skip
        subprocess.run([program, "config", *arguments], check=True, stdout=subprocess.DEVNULL)
    say(f"kubectl now uses the context {name}")


def forget(instance: Instance) -> None:
    """Take the cluster out of the user's kubeconfig again, where it is there."""
    program, name = _kubectl(), _name(instance)
    if program is None:
        return
    known = subprocess.run([program, "config", "get-contexts", name], capture_output=True, check=False)
    if known.returncode:
        return
    current = subprocess.run([program, "config", "current-context"], capture_output=True, text=True, check=False)
    removals = [["delete-context", name], ["delete-cluster", name], ["delete-user", name]]
    if current.stdout.strip() == name:
        removals.append(["unset", "current-context"])
    for arguments in removals:
        subprocess.run([program, "config", *arguments], check=False, capture_output=True)


def _name(instance: Instance) -> str:
    return f"omnipipeline-{instance.name}"


def _kubectl() -> str | None:
    beside = Path(sys.executable).parent / "kubectl"
    venv = Path(__file__).resolve().parents[2] / ".venv/bin/kubectl"
    return next((str(path) for path in (beside, venv) if path.exists()), None) or shutil.which("kubectl")
