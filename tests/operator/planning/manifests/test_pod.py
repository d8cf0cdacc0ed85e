"""The pod templates: devices, probes, settings, Secrets, and the user's patch."""

import base64
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests.config import keys_secret
from omni_operator.planning.manifests.ownership import controller_uid
from tests.operator.edits import edited
from tests.operator.rendered import IMAGE, KEYS, container, pod, rendered


def test_gpus_are_asked_for_where_replicas_are(digits: dict[str, Any]) -> None:
    assert container(digits)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "nvidia.com/gpu" not in str(container(digits, "digits-head")["resources"])
    with_head = edited(digits, {"spec.head.localReplicas": 2, "spec.stages.0.accelerator": {"resource": "a.b/c"}})
    assert container(with_head, "digits-head")["resources"]["limits"] == {"a.b/c": "2"}


def test_probes_and_grace_follow_the_timeouts(digits: dict[str, Any]) -> None:
    manifest = edited(
        digits, {"spec.stages.0.startupTimeoutSeconds": 121, "spec.stages.0.drain": {"timeoutSeconds": 45}}
    )
    for name in ("digits-head", "digits-painter"):
        omni = container(manifest, name)
        startup = omni["startupProbe"]
        assert startup["httpGet"]["path"] == "/startupz"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 121
        assert omni["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert omni["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert pod(manifest, name)["spec"]["terminationGracePeriodSeconds"] == 75


def test_pods_are_confined(digits: dict[str, Any]) -> None:
    for name in ("digits-head", "digits-painter"):
        spec, context = pod(digits, name)["spec"], container(digits, name)["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        writable = {
            mount["mountPath"] for mount in container(digits, name)["volumeMounts"] if not mount.get("readOnly")
        }
        assert writable == {"/tmp", "/dev/shm"}


def test_the_head_alone_reads_the_stage_config(digits: dict[str, Any]) -> None:
    def mounted(name: str) -> list[str]:
        return [mount["mountPath"] for mount in container(digits, name)["volumeMounts"]]

    assert "/etc/omnipipeline" in mounted("digits-head")
    assert "/etc/omnipipeline" not in mounted("digits-painter")


def test_an_api_with_a_certificate_is_probed_over_https_and_replicas_are_not(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.api.tls": {"secretName": "certificate"}})
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    for name, scheme in {"digits-head": "HTTPS", "digits-painter": "HTTP"}.items():
        assert {container(manifest, name)[probe]["httpGet"]["scheme"] for probe in probes} == {scheme}
    volume = {"name": "tls", "secret": {"secretName": "certificate", "defaultMode": 0o440}}
    assert volume in pod(manifest, "digits-head")["spec"]["volumes"]
    assert volume not in pod(manifest, "digits-painter")["spec"]["volumes"]
    schemes = {
        name: pod(manifest, name)["metadata"]["annotations"].get("prometheus.io/scheme")
        for name in ("digits-head", "digits-painter")
    }
    assert schemes == {"digits-head": "https", "digits-painter": None}, "Prometheus goes by it"
    # Kubernetes never updates a subPath.
    mount = {"name": "tls", "mountPath": "/etc/omnipipeline-tls", "readOnly": True}
    assert mount in container(manifest, "digits-head")["volumeMounts"]
    (port,) = rendered(manifest)["Service", "digits"]["spec"]["ports"]
    assert (port["name"], port["appProtocol"]) == ("http", "https")
    (port,) = rendered(digits)["Service", "digits"]["spec"]["ports"]
    assert port["appProtocol"] == "http"


# name: (edits, pod, path in the pod's spec, expected)
POD_FIELDS: dict[str, tuple[dict[str, Any], str, str, Any]] = {
    "shared memory is limited": ({}, "digits-painter", "volumes", {"medium": "Memory", "sizeLimit": "16Gi"}),
    "shared memory has the size that is asked for": (
        {"spec.stages.0.shmSize": "64Gi"},
        "digits-painter",
        "volumes",
        {"medium": "Memory", "sizeLimit": "64Gi"},
    ),
    "a head without replicas needs little of it": (
        {"spec.stages.0.shmSize": "64Gi"},
        "digits-head",
        "volumes",
        {"medium": "Memory", "sizeLimit": "1Gi"},
    ),
    "pods go where the devices are": (
        {"spec.stages.0.accelerator.nodeSelector": {"gpu": "h100"}},
        "digits-painter",
        "nodeSelector",
        {"gpu": "h100"},
    ),
    "a head without devices goes anywhere": (
        {"spec.stages.0.accelerator.nodeSelector": {"gpu": "h100"}},
        "digits-head",
        "nodeSelector",
        None,
    ),
    "a head with devices goes where they are": (
        {"spec.stages.0.accelerator.nodeSelector": {"gpu": "h100"}, "spec.head.localReplicas": 1},
        "digits-head",
        "nodeSelector",
        {"gpu": "h100"},
    ),
    "devices may need a runtime": (
        {"spec.stages.0.accelerator.runtimeClassName": "nvidia"},
        "digits-painter",
        "runtimeClassName",
        "nvidia",
    ),
    "the priority is that of all pods": (
        {"spec.priorityClassName": "urgent"},
        "digits-head",
        "priorityClassName",
        "urgent",
    ),
}


@pytest.mark.parametrize("row", POD_FIELDS)
def test_fields_of_the_spec_reach_the_pods(digits: dict[str, Any], row: str) -> None:
    edits, name, path, expected = POD_FIELDS[row]
    spec = pod(edited(digits, edits), name)["spec"]
    found = next(one for one in spec["volumes"] if one["name"] == "shm")["emptyDir"] if "volumes" in path else None
    assert (found or spec.get(path)) == expected


def test_the_hub_token_comes_from_its_secret(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model": {"source": "hf://a/b", "tokenSecretRef": {"name": "hub"}}})
    token = next(variable for variable in container(manifest)["env"] if variable["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}


def test_the_secret_is_what_it_is_told_and_only_the_pods_group_reads_it(digits: dict[str, Any]) -> None:
    secret = keys_secret(parse(digits), KEYS, "of the pods alone")
    assert (secret["kind"], secret["metadata"]["name"]) == ("Secret", KEYS)
    assert base64.b64decode(secret["data"]["secret"]).decode() == "of the pods alone"
    assert controller_uid(secret) == "uid-of-digits"
    for name in ("digits-head", "digits-painter"):
        volume = next(volume for volume in pod(digits, name)["spec"]["volumes"] if volume["name"] == "keys")
        assert volume["secret"] == {"secretName": KEYS, "defaultMode": 0o440}
        assert pod(digits, name)["spec"]["securityContext"]["fsGroup"] == 65532
        assert not {"runAsUser", "runAsGroup"} & pod(digits, name)["spec"]["securityContext"].keys()
        mounted = {"name": "keys", "mountPath": "/etc/omnipipeline-keys", "readOnly": True}
        assert mounted in container(digits, name)["volumeMounts"]


def test_the_keys_of_clients_are_a_file_of_the_head_alone(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.apiKeySecretRef": {"name": "clients", "key": "keys.txt"}})
    volume = next(one for one in pod(manifest, "digits-head")["spec"]["volumes"] if one["name"] == "api-keys")
    assert volume["secret"]["secretName"] == "clients"
    assert volume["secret"]["items"] == [{"key": "keys.txt", "path": "keys"}]
    head = container(manifest, "digits-head")
    assert {"name": "api-keys", "mountPath": "/etc/omnipipeline-api", "readOnly": True} in head["volumeMounts"]
    assert "--api-key-file=/etc/omnipipeline-api/keys" in head["args"]
    assert pod(manifest) == pod(digits)


def test_stages_have_tokens_of_their_own(two: dict[str, Any]) -> None:
    own = {"source": "hf://a/b", "tokenSecretRef": {"name": "language", "key": "t"}}
    manifest = edited(two, {"spec.stages.0.model": own, "spec.model": {"source": "hf://c/d"}})

    def token(name: str) -> list[Any]:
        variables = container(manifest, name)["env"]
        return [one["valueFrom"]["secretKeyRef"] for one in variables if one["name"] == "HF_TOKEN"]

    assert token("two-thinker") == [{"name": "language", "key": "t"}]
    assert token("two-painter") == []


def test_the_image_is_the_operators_unless_the_pipeline_names_one(digits: dict[str, Any]) -> None:
    assert container(digits)["image"] == IMAGE
    own = edited(digits, {"spec.image": {"name": "me/worker:1", "pullPolicy": "Never", "pullSecrets": ["registry"]}})
    assert container(own)["image"] == "me/worker:1"
    assert container(own)["imagePullPolicy"] == "Never"
    assert pod(own)["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_a_template_is_merged_but_cannot_take_our_labels_away(digits: dict[str, Any]) -> None:
    template = {
        "metadata": {"labels": {"team": "a", "omnipipeline.dev/role": "mine"}},
        "spec": {"nodeSelector": {"zone": "b"}, "containers": [{"name": "omni", "env": [{"name": "A", "value": "1"}]}]},
    }
    manifest = edited(digits, {"spec.stages.0.template": template})
    assert pod(manifest)["metadata"]["labels"]["team"] == "a"
    assert pod(manifest)["metadata"]["labels"]["omnipipeline.dev/role"] == "replica"
    assert pod(manifest)["spec"]["nodeSelector"] == {"zone": "b"}
    assert [variable["name"] for variable in container(manifest)["env"]] == ["POD_IP", "HOME", "OMP_NUM_THREADS", "A"]


def test_a_template_sets_the_cpu_threads_of_a_process_with_devices(digits: dict[str, Any]) -> None:
    own = {"name": "OMP_NUM_THREADS", "value": "4"}
    manifest = edited(digits, {"spec.stages.0.template": {"spec": {"containers": [{"name": "omni", "env": [own]}]}}})
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in container(digits)["env"]
    assert [one for one in container(manifest)["env"] if one["name"] == "OMP_NUM_THREADS"] == [own]
    on_the_cpu = edited(digits, {"spec.stages.0.accelerator": None})
    assert "OMP_NUM_THREADS" not in {variable["name"] for variable in container(on_the_cpu)["env"]}
