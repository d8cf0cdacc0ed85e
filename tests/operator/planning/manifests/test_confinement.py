"""Every pod of the operator complies with the profile `restricted` of Kubernetes' Pod Security Standards.

The profile is a function of a pod's spec here. The last table shows that it finds violations.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.operator.conftest import EXAMPLES, from_cluster
from tests.operator.edits import edited
from tests.operator.rendered import pod, rendered

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {"net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies"}
SECCOMP = ("RuntimeDefault", "Localhost")
EVERYTHING = {
    "spec.model": {
        "source": "hf://org/name",
        "tokenSecretRef": {"name": "hf"},
        "cache": {"size": "1Gi", "prefetch": True},
    },
    "spec.image": {"name": "worker:1", "pullSecrets": ["registry"]},
    "spec.apiKeySecretRef": {"name": "clients"},
    "spec.api.tls": {"secretName": "certificate"},
    "spec.videos.storage": {"size": "1Gi"},
    "spec.head.localReplicas": 1,
    "spec.stages.0.accelerator": {"count": 2, "runtimeClassName": "nvidia"},
    "spec.stages.0.parallelism": {"cfg": 2},
    "spec.stages.0.shmSize": "1Gi",
}


def violations(spec: Mapping[str, Any]) -> Iterator[str]:
    """The violations of the profile in a pod's spec."""
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(host):
            yield host
    for volume in spec.get("volumes", []):
        yield from sorted(volume.keys() - VOLUMES - {"name"})
    own = spec.get("securityContext", {})
    yield from (f"sysctl {one['name']}" for one in own.get("sysctls", []) if one["name"] not in SYSCTLS)
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        yield from of_container(container, {**own, **container.get("securityContext", {})})


def of_container(container: Mapping[str, Any], context: Mapping[str, Any]) -> Iterator[str]:
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "runs as root"
    if context.get("seccompProfile", {}).get("type") not in SECCOMP:
        yield "seccompProfile"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"


def pod_specs(manifest: dict[str, Any]) -> dict[str, Any]:
    """The pod spec of every Deployment and Job."""
    return {
        f"{kind}/{name}": child["spec"]["template"]["spec"]
        for (kind, name), child in rendered(manifest).items()
        if kind in ("Deployment", "Job")
    }


@pytest.mark.parametrize("name", sorted(file.stem for file in EXAMPLES.glob("*.yaml")))
def test_the_pods_of_an_example_are_restricted(name: str) -> None:
    specs = pod_specs(from_cluster(name))
    assert len(specs) >= 2
    assert {pod: list(violations(spec)) for pod, spec in specs.items()} == {pod: [] for pod in specs}


def test_with_all_that_can_be_asked_for_they_are_too(digits: dict[str, Any]) -> None:
    specs = pod_specs(edited(digits, EVERYTHING))
    assert sorted(kind.partition("/")[0] for kind in specs) == ["Deployment", "Deployment", "Job"]
    assert {pod: list(violations(spec)) for pod, spec in specs.items()} == {pod: [] for pod in specs}


def of_ours(**context: Any) -> dict[str, Any]:
    return {"containers": [{"name": "omni", "securityContext": context}]}


# The spec of a template that violates the profile, and the violation.
LEAVING: dict[str, tuple[dict[str, Any], str]] = {
    "the node's network": ({"hostNetwork": True}, "hostNetwork"),
    "the node's processes": ({"hostPID": True}, "hostPID"),
    "a folder of the node": ({"volumes": [{"name": "data", "hostPath": {"path": "/data"}}]}, "hostPath"),
    "a setting of the kernel": ({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}, "sysctl kernel.msgmax"),
    "every right": (of_ours(privileged=True), "privileged"),
    "more rights later": (of_ours(allowPrivilegeEscalation=True), "allowPrivilegeEscalation"),
    "root": (of_ours(runAsUser=0), "runs as root"),
    "maybe root": (of_ours(runAsNonRoot=False), "runs as root"),
    "no profile of system calls": (of_ours(seccompProfile={"type": "Unconfined"}), "seccompProfile"),
    "all of /proc": (of_ours(procMount="Unmasked"), "procMount"),
    "a capability": (of_ours(capabilities={"add": ["SYS_ADMIN"]}), "capabilities"),
    "a port of the node": (
        {"containers": [{"name": "sidecar", "image": "i", "ports": [{"containerPort": 1, "hostPort": 1}]}]},
        "hostPort",
    ),
}


@pytest.mark.parametrize("row", LEAVING)
def test_a_template_may_leave_the_profile_for_its_own_pods_alone(digits: dict[str, Any], row: str) -> None:
    spec, found = LEAVING[row]
    manifest = edited(digits, {"spec.stages.0.template": {"spec": spec}})
    assert found in list(violations(pod(manifest)["spec"]))
    assert not list(violations(pod(manifest, "digits-head")["spec"]))
