"""The Kubernetes objects of a pipeline."""

import base64
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests.config import keys_secret
from omni_operator.planning.manifests.ownership import SPEC_HASH, controller_uid, pipeline_of
from tests.operator.edits import edited
from tests.operator.made import IMAGE, SECRET, container, made, pod


def test_a_pipeline_is_these_objects(digits: dict[str, Any]) -> None:
    assert list(made(digits)) == [
        ("ServiceAccount", "digits"),
        ("ConfigMap", "digits"),
        ("Service", "digits-head"),
        ("Service", "digits"),
        ("NetworkPolicy", "digits"),
        ("PodDisruptionBudget", "digits-painter"),
        ("Deployment", "digits-head"),
        ("Deployment", "digits-painter"),
    ]


def test_every_object_is_owned_and_labelled(digits: dict[str, Any]) -> None:
    for child in made(digits).values():
        metadata = child["metadata"]
        assert metadata["namespace"] == "gallery"
        assert controller_uid(child) == "uid-of-digits"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "omni-operator"
        assert metadata["labels"]["omnipipeline.dev/pipeline"] == "digits"
        assert metadata["annotations"][SPEC_HASH]


def test_selectors_match_their_pods_and_only_those(digits: dict[str, Any]) -> None:
    objects = made(digits)
    head, painter = pod(digits, "digits-head"), pod(digits)
    for key, mine, other in (
        (("Deployment", "digits-head"), head, painter),
        (("Deployment", "digits-painter"), painter, head),
        (("Service", "digits"), head, painter),
        (("Service", "digits-head"), head, painter),
    ):
        spec = objects[key]["spec"]
        selector = (spec["selector"].get("matchLabels") or spec["selector"]).items()
        assert selector <= mine["metadata"]["labels"].items()
        assert not selector <= other["metadata"]["labels"].items()


def test_the_head_is_never_there_twice_and_replicas_never_surge(digits: dict[str, Any]) -> None:
    objects = made(digits)
    assert objects["Deployment", "digits-head"]["spec"]["strategy"] == {"type": "Recreate"}
    assert objects["Deployment", "digits-painter"]["spec"]["strategy"]["rollingUpdate"] == {
        "maxUnavailable": 1,
        "maxSurge": 0,
    }


# What a rollout may take is what the draining of nodes may take, and never nothing.
BUDGETS: dict[str, tuple[dict[str, Any], int | str]] = {
    "one where nothing is said": ({}, 1),
    "as many as a rollout may take": ({"spec.stages.0.rollout": {"maxUnavailable": "25%"}}, "25%"),
    "one even where a rollout only surges": ({"spec.stages.0.rollout": {"maxUnavailable": 0, "maxSurge": 1}}, 1),
    "one even of a percentage of nothing": ({"spec.stages.0.rollout": {"maxUnavailable": "0%", "maxSurge": 1}}, 1),
}


@pytest.mark.parametrize("row", BUDGETS)
def test_the_draining_of_nodes_takes_so_many_replicas(digits: dict[str, Any], row: str) -> None:
    edits, unavailable = BUDGETS[row]
    spec = made(edited(digits, edits))["PodDisruptionBudget", "digits-painter"]["spec"]
    assert spec["maxUnavailable"] == unavailable
    assert spec["selector"]["matchLabels"].items() <= pod(digits)["metadata"]["labels"].items()
    assert not spec["selector"]["matchLabels"].items() <= pod(digits, "digits-head")["metadata"]["labels"].items()


def test_only_its_own_pods_reach_more_than_the_http_port(digits: dict[str, Any]) -> None:
    spec = made(digits)["NetworkPolicy", "digits"]["spec"]
    own = {"matchLabels": {"omnipipeline.dev/pipeline": "digits"}}
    assert spec["podSelector"] == own
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"from": [{"podSelector": own}]}, {"ports": [{"port": 8000, "protocol": "TCP"}]}]


def test_the_http_port_is_for_the_clients_that_are_named_and_the_operator(digits: dict[str, Any]) -> None:
    team = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
    manifest = edited(digits, {"spec.networkPolicy": {"clients": [team]}})
    first, operator = made(manifest)["NetworkPolicy", "digits"]["spec"]["ingress"][1]["from"]
    assert first == team
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "omnipipeline-operator"}


def test_no_network_policy_is_made_where_none_is_wanted(digits: dict[str, Any]) -> None:
    assert ("NetworkPolicy", "digits") not in made(edited(digits, {"spec.networkPolicy": {"mode": "none"}}))


def test_replicas_find_the_head_before_it_is_ready(digits: dict[str, Any]) -> None:
    service = made(digits)["Service", "digits-head"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert {port["name"]: port["port"] for port in service["ports"]} == {
        "master": 9000,
        "coordinator": 9001,
        "coordinator-pub": 9002,
    }


def test_gpus_are_asked_for_where_replicas_are(digits: dict[str, Any]) -> None:
    assert container(digits)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "resources" not in container(digits, "digits-head")
    with_head = edited(digits, {"spec.head.localReplicas": 2, "spec.stages.0.accelerator": {"resource": "a.b/c"}})
    assert container(with_head, "digits-head")["resources"]["requests"] == {"a.b/c": "2"}


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


def test_a_monitor_is_made_where_it_is_asked_for_and_changes_no_pod(digits: dict[str, Any]) -> None:
    asked = {"labels": {"release": "ours", "app.kubernetes.io/managed-by": "me"}, "interval": "10s"}
    objects = made(edited(digits, {"spec.monitoring.podMonitor": asked}))
    monitor = objects.pop(("PodMonitor", "digits"))
    assert objects == made(digits)
    assert monitor["metadata"]["labels"]["release"] == "ours"
    assert monitor["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "omni-operator", (
        "or it were not found again"
    )
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod(digits)["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == "10s"
    assert endpoint["port"] in [port["name"] for port in container(digits)["ports"]]


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
    told = {
        name: pod(manifest, name)["metadata"]["annotations"].get("prometheus.io/scheme")
        for name in ("digits-head", "digits-painter")
    }
    assert told == {"digits-head": "https", "digits-painter": None}, "Prometheus goes by it"
    # A subPath would never be brought up to date.
    mount = {"name": "tls", "mountPath": "/etc/omnipipeline-tls", "readOnly": True}
    assert mount in container(manifest, "digits-head")["volumeMounts"]
    (port,) = made(manifest)["Service", "digits"]["spec"]["ports"]
    assert (port["name"], port["appProtocol"]) == ("http", "https")
    (port,) = made(digits)["Service", "digits"]["spec"]["ports"]
    assert "appProtocol" not in port


# name: (edits, pod, path in the pod's spec, expected)
POD_FIELDS: dict[str, tuple[dict[str, Any], str, str, Any]] = {
    "shared memory is as the node sees fit": ({}, "digits-painter", "volumes", {"medium": "Memory"}),
    "shared memory has the size that is asked for": (
        {"spec.stages.0.shmSize": "16Gi"},
        "digits-painter",
        "volumes",
        {"medium": "Memory", "sizeLimit": "16Gi"},
    ),
    "a head without replicas needs none of it": (
        {"spec.stages.0.shmSize": "16Gi"},
        "digits-head",
        "volumes",
        {"medium": "Memory"},
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


def test_the_api_service_is_of_the_type_that_is_asked_for(digits: dict[str, Any]) -> None:
    wanted = {"type": "LoadBalancer", "annotations": {"lb.example/internal": "true"}}
    service = made(edited(digits, {"spec.service": wanted}))["Service", "digits"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["metadata"]["annotations"]["lb.example/internal"] == "true"
    assert service["metadata"]["annotations"][SPEC_HASH] != made(digits)["Service", "digits"]["metadata"][
        "annotations"
    ].get(SPEC_HASH)


def test_the_hub_token_comes_from_its_secret(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model": {"source": "hf://a/b", "tokenSecretRef": {"name": "hub"}}})
    token = next(variable for variable in container(manifest)["env"] if variable["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}


def test_the_secret_is_what_it_is_told_and_only_the_pods_group_reads_it(digits: dict[str, Any]) -> None:
    secret = keys_secret(parse(digits), SECRET)
    assert (secret["kind"], secret["metadata"]["name"]) == ("Secret", "digits-keys")
    assert base64.b64decode(secret["data"]["secret"]).decode() == SECRET
    assert controller_uid(secret) == "uid-of-digits"
    for name in ("digits-head", "digits-painter"):
        volume = next(volume for volume in pod(digits, name)["spec"]["volumes"] if volume["name"] == "keys")
        assert volume["secret"] == {"secretName": "digits-keys", "defaultMode": 0o440}
        assert pod(digits, name)["spec"]["securityContext"]["fsGroup"] == 65532
        mounted = {"name": "keys", "mountPath": "/etc/omnipipeline-keys", "readOnly": True}
        assert mounted in container(digits, name)["volumeMounts"]
        assert SECRET not in str(pod(digits, name))


def test_the_keys_of_clients_are_a_file_of_the_head_alone(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.apiKeySecretRef": {"name": "clients", "key": "keys.txt"}})
    volume = next(one for one in pod(manifest, "digits-head")["spec"]["volumes"] if one["name"] == "api-keys")
    assert volume["secret"]["secretName"] == "clients"
    assert volume["secret"]["items"] == [{"key": "keys.txt", "path": "keys"}]
    head = container(manifest, "digits-head")
    assert {"name": "api-keys", "mountPath": "/etc/omnipipeline-api", "readOnly": True} in head["volumeMounts"]
    assert "--api-key-file=/etc/omnipipeline-api/keys" in head["args"]
    assert pod(manifest) == pod(digits)


def test_another_secret_restarts_all_pods(two: dict[str, Any]) -> None:
    for name in ("two-head", "two-thinker", "two-painter"):
        assert pod(two, name, "another") != pod(two, name)


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
    assert [variable["name"] for variable in container(manifest)["env"]] == ["POD_IP", "HOME", "A"]


# What an edit of the manifest may restart: pods restart when, and only when, their template changes.
RESTARTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "to suspend changes no pod": ({"spec.suspend": True}, set()),
    "another type of Service restarts nothing": ({"spec.service": {"type": "NodePort"}}, set()),
    "scaling restarts nothing": ({"spec.replicas": 7}, set()),
    "another label restarts nothing": ({"metadata.labels": {"a": "b"}}, set()),
    "another generation restarts nothing": ({"metadata.generation": 9}, set()),
    "other clients restart nothing": ({"spec.networkPolicy": {"clients": [{"podSelector": {}}]}}, set()),
    "another rollout restarts nothing": ({"spec.stages.0.rollout.maxSurge": 1}, set()),
    "another policy restarts the head": ({"spec.loadBalancing.policy": "random"}, {"digits-head"}),
    "another batch size restarts the replicas": ({"spec.stages.0.scheduling.maxNumSeqs": 2}, {"digits-painter"}),
    "another image restarts all": ({"spec.image.name": "me/worker:2"}, {"digits-head", "digits-painter"}),
    "another model restarts all": ({"spec.model.source": "hf://a/b"}, {"digits-head", "digits-painter"}),
    "another template of the stage restarts the replicas": (
        {"spec.stages.0.template": {"spec": {"nodeSelector": {"a": "b"}}}},
        {"digits-painter"},
    ),
}


@pytest.mark.parametrize("row", RESTARTS)
def test_what_restarts(digits: dict[str, Any], row: str) -> None:
    edits, expected = RESTARTS[row]
    after = edited(digits, edits)
    assert {name for name in ("digits-head", "digits-painter") if pod(after, name) != pod(digits, name)} == expected


REWRITER = {"name": "rewriter", "engine": "autoregressive"}
# The same of a pipeline of a thinker and a painter.
RESTARTS_OF_TWO: dict[str, tuple[dict[str, Any], set[str]]] = {
    "scaling one stage restarts nothing": ({"spec.stages.1.replicas": 5}, set()),
    "a stage in front restarts the head alone": ({"spec.stages.insert": REWRITER}, {"two-head"}),
    "another batch size of a stage restarts that stage": (
        {"spec.stages.0.scheduling": {"maxNumSeqs": 2}},
        {"two-thinker"},
    ),
    "what a thinker is told restarts the head alone": ({"spec.stages.0.system": "Be brief."}, {"two-head"}),
    "how much a thinker writes restarts the head alone": ({"spec.stages.0.maxTokens": 64}, {"two-head"}),
    "another input restarts the head alone": ({"spec.stages.1.input": "text"}, {"two-head"}),
    "another model of a stage restarts it and the head": (
        {"spec.stages.0.model": {"source": "hf://a/b"}},
        {"two-head", "two-thinker"},
    ),
    "only to encode spares the painter its text encoder": (
        {"spec.stages.0.task": "encode"},
        {"two-head", "two-thinker", "two-painter"},
    ),
}


@pytest.mark.parametrize("row", RESTARTS_OF_TWO)
def test_what_restarts_of_two_stages(two: dict[str, Any], row: str) -> None:
    edits, expected = RESTARTS_OF_TWO[row]
    if "spec.stages.insert" in edits:
        edits = {"spec.stages": [edits["spec.stages.insert"], *two["spec"]["stages"]]}
    after = edited(two, edits)
    names = ("two-head", "two-thinker", "two-painter")
    assert {name for name in names if pod(after, name) != pod(two, name)} == expected


def test_a_child_knows_its_pipeline_by_owner_and_a_pod_by_label(digits: dict[str, Any]) -> None:
    service = made(digits)["Service", "digits"]
    service["metadata"]["labels"] = {}
    assert pipeline_of(service) == "digits"
    replica = pod(digits)
    replica["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "digits-painter-x", "controller": True}]
    assert pipeline_of(replica) == "digits"
    assert pipeline_of({"kind": "Pod", "metadata": {"name": "stray"}}) is None
    assert pipeline_of(digits) == "digits", "a pipeline is its own"


def test_the_same_manifest_makes_the_same_objects(digits: dict[str, Any]) -> None:
    assert made(digits) == made(edited(digits, {}))
