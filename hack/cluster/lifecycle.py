"""Bringing an instance up, saying how it is, and taking it down: the order in which the other modules are used."""

from __future__ import annotations

from hack.cluster import packages
from hack.cluster.cache import locked
from hack.cluster.certificates import issue
from hack.cluster.control_plane import Api, start_control_plane
from hack.cluster.instance import Instance
from hack.cluster.node import start_node
from hack.cluster.programs import NAMES, Programs, choose, debian_packages
from hack.cluster.sandbox import close_sandbox, open_sandbox
from hack.cluster.shell import ClusterError, say, step


def up(instance: Instance, node: bool = True, kubernetes: str = "newest") -> None:
    """Have it running: nothing to do when it is, from a clean slate when an earlier run was cut short.

    `kubernetes`: see programs.choose. Raises ClusterError if it runs another version than one that is named.
    """
    packages.require_machine()
    with locked(f"cluster-{instance.name}"):
        if _is_up(instance):
            running = instance.programs.version
            if kubernetes not in (*NAMES, running):
                raise ClusterError(f"{instance.name} runs Kubernetes {running}; take it down first for {kubernetes}")
            if not node or (instance.state / "node-ready").exists():
                say(f"{instance.name} is up already, with Kubernetes {running}")
                return
            instance.use(prepare(running, node))
        else:
            programs = prepare(kubernetes, node)
            if instance.state.exists():
                say(f"removing what an earlier {instance.name} left behind")
            close_sandbox(instance)
            with step(f"starting the control plane of {instance.name}"):
                instance.create()
                instance.use(programs)
                open_sandbox(instance)
                issue(instance)
                start_control_plane(instance)
                (instance.state / "control-plane-ready").touch()
        if node:
            with step("starting the node"):
                start_node(instance)
                (instance.state / "node-ready").touch()


def prepare(kubernetes: str, node: bool) -> Programs:
    """Have all that a cluster needs on this machine: its programs, and the packages beside them."""
    programs = choose(kubernetes, with_node=node)
    packages.install(debian_packages(programs))
    return programs


def down(instance: Instance) -> None:
    """Stop it and remove every trace but the cache."""
    packages.require_machine()
    with locked(f"cluster-{instance.name}"):
        close_sandbox(instance)
    say(f"{instance.name} is down")


def status(instance: Instance) -> str:
    """One line on how it is."""
    if not instance.is_running:
        return "not running"
    if not _is_up(instance):
        return "started, but not answering; `up` starts it afresh"
    nodes = "with its node" if (instance.state / "node-ready").exists() else "control plane only"
    return f"running, {nodes}, Kubernetes {instance.programs.version}, at https://{instance.node_address}:6443"


def _is_up(instance: Instance) -> bool:
    if not (instance.is_running and (instance.state / "control-plane-ready").exists()):
        return False
    try:
        return Api(instance).is_ready()
    except (OSError, ValueError):
        return False
