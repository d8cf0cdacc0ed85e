"""The Jobs that download models first: what they download, and that they are pods like those that load the models."""

from typing import Any

import pytest

from omni_operator.crd.objects import Object
from omni_operator.planning.manifests.pod import Surroundings
from tests.operator.edits import edited
from tests.operator.rendered import IMAGE, rendered

CACHE = {"size": "200Gi", "prefetch": True}
HUB = {"source": "hf://a/b", "cache": CACHE}


def jobs(manifest: dict[str, Any]) -> dict[str, Object]:
    """The Jobs of a pipeline that download a model, by the model."""
    found = [child for (kind, name), child in rendered(manifest).items() if kind == "Job" and "-fetch-" in name]
    return {omni(job)["args"][1]: job for job in found}


def spec_of(job: Object) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def omni(job: Object) -> dict[str, Any]:
    (container,) = spec_of(job)["containers"]
    return dict(container)


def fetched(manifest: dict[str, Any]) -> Object:
    """The one Job of a pipeline."""
    (job,) = jobs(manifest).values()
    return job


def test_each_model_is_fetched_by_a_job_with_its_own_token(two: dict[str, Any]) -> None:
    own = {"source": "hf://c/d", "tokenSecretRef": {"name": "hub"}}
    manifest = edited(two, {"spec.model": HUB | {"revision": "v1"}, "spec.stages.0.model": own})
    found = jobs(manifest)
    assert set(found) == {"hf://a/b@v1", "hf://c/d"}
    assert len({job["metadata"]["name"] for job in found.values()}) == 2
    for model, job in found.items():
        assert job["metadata"]["labels"]["omnipipeline.dev/role"] == "prefetch"
        assert job["spec"]["template"]["metadata"]["labels"]["omnipipeline.dev/role"] == "prefetch"
        container = omni(job)
        assert container["args"] == ["fetch", model]
        assert "command" not in container, "the image's entrypoint starts an init, which passes signals on"
        assert any(one["name"] == "HF_TOKEN" for one in container["env"]) is (model == "hf://c/d")
        assert {"name": "HF_HOME", "value": "/cache"} in container["env"]
        assert {"name": "model-cache", "mountPath": "/cache"} in container["volumeMounts"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "limits" not in container["resources"], "no device waits for a download"
        volume = {"name": "model-cache", "persistentVolumeClaim": {"claimName": "two-models"}}
        assert volume in spec_of(job)["volumes"]


def test_the_job_waits_in_the_queue_of_its_pipeline_and_another_queue_needs_another_job(digits: dict[str, Any]) -> None:
    plain = edited(digits, {"spec.model": HUB})
    first, second = (
        fetched(edited(plain, {"metadata.labels": {"kueue.x-k8s.io/queue-name": name, "team": "a"}})) for name in "ab"
    )
    assert first["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "a"
    assert "team" not in first["metadata"]["labels"]
    assert len({job["metadata"]["name"] for job in (first, second, fetched(plain))}) == 3
    assert spec_of(first) == spec_of(second) == spec_of(fetched(plain))


def test_a_model_of_several_stages_is_fetched_once(two: dict[str, Any]) -> None:
    assert set(jobs(edited(two, {"spec.model": HUB}))) == {"hf://a/b"}


def test_another_download_is_another_job(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model": HUB})
    name = fetched(manifest)["metadata"]["name"]
    assert fetched(edited(manifest, {"spec.model.revision": "v2"}))["metadata"]["name"] != name, "a Job cannot change"
    assert fetched(edited(manifest, {"spec.replicas": 7}))["metadata"]["name"] == name
    for edits in ({"spec.suspend": True}, {"spec.model.cache.prefetch": False}):
        assert jobs(edited(manifest, edits)) == {}


ENV = [
    {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
    {"name": "HF_ENDPOINT", "value": "https://mirror.example"},
]
CA = {"name": "ca", "configMap": {"name": "company-ca"}}
DEVICES = {
    "requests": {"nvidia.com/gpu": "1", "memory": "4Gi"},
    "limits": {"nvidia.com/gpu": "1"},
    "claims": [{"name": "gpu"}],
}
TEMPLATE = {
    "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"team": "a"}},
    "spec": {
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "nodeSelector": {"pool": "gpu"},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "schedulerName": "other",
        "dnsConfig": {"nameservers": ["10.0.0.1"]},
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "urgent",
        "runtimeClassName": "nvidia",
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 900,
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
        "volumes": [CA],
        "initContainers": [
            {"name": "trust", "image": "i", "volumeMounts": [{"name": "keys", "mountPath": "/k"}], "resources": DEVICES}
        ],
        "containers": [
            {
                "name": "omni",
                "env": ENV,
                "envFrom": [{"secretRef": {"name": "proxies"}}],
                "resources": DEVICES,
                "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}, {"name": "shm", "mountPath": "/dev/shm"}],
                "livenessProbe": {"periodSeconds": 60},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            },
            {"name": "sidecar", "image": "i"},
        ],
    },
}


def test_a_download_has_what_the_template_says_about_pods_that_load_the_model(digits: dict[str, Any]) -> None:
    job = fetched(edited(digits, {"spec.model": HUB, "spec.stages.0.template": TEMPLATE}))
    metadata, spec, container = job["spec"]["template"]["metadata"], spec_of(job), omni(job)
    assert metadata["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert metadata["labels"]["team"] == "a"
    same = ("tolerations", "nodeSelector", "affinity", "schedulerName", "dnsConfig", "priorityClassName")
    assert {key: spec[key] for key in same} == {key: TEMPLATE["spec"][key] for key in same}
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert CA in spec["volumes"]
    assert [one for one in container["env"] if one in ENV] == ENV
    assert container["envFrom"] == [{"secretRef": {"name": "proxies"}}]
    assert {"name": "ca", "mountPath": "/etc/ca"} in container["volumeMounts"]


def test_a_download_has_no_devices_no_probes_and_nothing_that_does_not_end(digits: dict[str, Any]) -> None:
    gpu = {"resource": "nvidia.com/gpu", "count": 2, "runtimeClassName": "nvidia", "nodeSelector": {"gpu": "h100"}}
    own = {"spec.stages.0.accelerator": gpu, "spec.stages.0.parallelism": {"cfg": 2}}
    job = fetched(edited(digits, {"spec.model": HUB, "spec.stages.0.template": TEMPLATE} | own))
    spec, container = spec_of(job), omni(job)
    assert container["resources"]["requests"]["memory"] == "4Gi"
    assert not [name for amounts in container["resources"].values() for name in amounts if "/" in name]
    assert spec["initContainers"][0]["resources"] == {"requests": {"memory": "4Gi"}}
    assert spec["initContainers"][0]["volumeMounts"] == [], "only serving pods have that volume"
    assert "/dev/shm" not in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert not {"livenessProbe", "lifecycle", "ports"} & container.keys()
    assert container["args"] == ["fetch", "hf://a/b"]
    assert not {"runtimeClassName", "resourceClaims", "terminationGracePeriodSeconds"} & spec.keys()
    assert spec["restartPolicy"] == "OnFailure"
    assert spec["nodeSelector"] == {"gpu": "h100", "pool": "gpu"}, (
        "a volume of one zone is bound where the pods can run"
    )


def test_the_priority_and_the_image_are_those_of_all_pods(digits: dict[str, Any]) -> None:
    own = {"spec.model": HUB, "spec.priorityClassName": "serving", "spec.image": {"name": "w:1", "pullSecrets": ["r"]}}
    job = fetched(edited(digits, own))
    assert (spec_of(job)["priorityClassName"], omni(job)["image"]) == ("serving", "w:1")
    assert spec_of(job)["imagePullSecrets"] == [{"name": "r"}]


@pytest.mark.parametrize(("replicas", "pool"), [(0, "head"), (1, "stage")])
def test_a_stage_that_runs_in_the_head_alone_is_downloaded_as_the_head_says(
    digits: dict[str, Any], replicas: int, pool: str
) -> None:
    own = {
        "spec.model": HUB,
        "spec.replicas": replicas,
        "spec.head": {"localReplicas": 1, "template": {"spec": {"nodeSelector": {"pool": "head"}}}},
        "spec.stages.0.template": {"spec": {"nodeSelector": {"pool": "stage"}}},
    }
    assert spec_of(fetched(edited(digits, own)))["nodeSelector"] == {"pool": pool}


@pytest.mark.parametrize("template", [{}, {"spec": None}, {"metadata": None}, {"spec": {"containers": None}}])
def test_an_empty_template_changes_nothing(digits: dict[str, Any], template: dict[str, Any]) -> None:
    plain = edited(digits, {"spec.model": HUB})
    assert fetched(edited(plain, {"spec.stages.0.template": template}))["spec"] == fetched(plain)["spec"]


def test_no_pod_insists_on_a_user_and_none_on_a_group_where_the_cluster_assigns_them(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model": HUB})
    for assigns_ids in (False, True):
        surroundings = Surroundings(IMAGE, assigns_ids=assigns_ids)
        children = rendered(manifest, surroundings=surroundings).values()
        specs = [child["spec"]["template"]["spec"] for child in children if child["kind"] in ("Deployment", "Job")]
        assert len(specs) == 3
        for spec in specs:
            context = spec["securityContext"]
            assert context["runAsNonRoot"] is True
            assert not {"runAsUser", "runAsGroup", "supplementalGroups"} & context.keys()
            assert ("fsGroup" in context) is not assigns_ids
            for container in spec["containers"]:
                assert not {"runAsUser", "runAsGroup"} & container["securityContext"].keys()


GPUS = {"resource": "nvidia.com/gpu", "nodeSelector": {"gpu": "h100"}}
POOL = {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"zone": "a"}}}
ON_GPUS = {"spec.model": HUB, "spec.stages.1.accelerator": GPUS, "spec.stages.1.template": POOL}


def test_a_model_of_several_stages_is_fetched_where_the_devices_are(two: dict[str, Any]) -> None:
    spec = spec_of(fetched(edited(two, ON_GPUS)))
    assert spec["nodeSelector"] == {"gpu": "h100", "zone": "a"}
    assert spec["tolerations"] == POOL["spec"]["tolerations"]


def test_each_model_is_fetched_where_its_stage_runs_and_if_possible_where_the_others_do(two: dict[str, Any]) -> None:
    own = {"source": "hf://c/d"}
    found = jobs(edited(two, ON_GPUS | {"spec.stages.0.model": own}))
    assert spec_of(found["hf://a/b"])["nodeSelector"] == {"gpu": "h100", "zone": "a"}
    spec = spec_of(found["hf://c/d"])
    assert "nodeSelector" not in spec, "the thinker may be in another pool"
    assert spec["tolerations"] == POOL["spec"]["tolerations"]
    (preferred,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    labels = {one["key"]: one["values"] for one in preferred["preference"]["matchExpressions"]}
    assert labels == {"gpu": ["h100"], "zone": ["a"]}


def test_a_volume_of_one_node_is_filled_where_all_pods_with_it_run(two: dict[str, Any]) -> None:
    own = {"spec.stages.0.model": {"source": "hf://c/d"}, "spec.model.cache.accessMode": "ReadWriteOnce"}
    for job in jobs(edited(two, ON_GPUS | own)).values():
        assert spec_of(job)["nodeSelector"] == {"gpu": "h100", "zone": "a"}


def test_stages_without_the_cache_do_not_say_where_models_are_fetched(two: dict[str, Any]) -> None:
    own = {"spec.model": HUB, "spec.stages.0.model": {"source": "builtin://digits"}}
    own |= {"spec.stages.0.template": {"spec": {"nodeSelector": {"zone": "b"}}}}
    assert "nodeSelector" not in spec_of(fetched(edited(two, own)))


def test_a_volume_of_one_node_is_filled_beside_the_pods_that_have_it(digits: dict[str, Any]) -> None:
    job = fetched(
        edited(digits, {"spec.model": {"source": "hf://a/b", "cache": {**CACHE, "accessMode": "ReadWriteOnce"}}})
    )
    (term,) = spec_of(job)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    selector, own_labels = term["labelSelector"], job["spec"]["template"]["metadata"]["labels"]
    assert selector["matchLabels"].items() <= own_labels.items(), "otherwise the first pod could never start"
    (roles,) = selector["matchExpressions"]
    assert own_labels[roles["key"]] in roles["values"]
