"""The volumes of a pipeline: models, downloads and videos."""

import json
from typing import Any

import pytest

from omni_operator.planning.manifests.ownership import controller_uid
from tests.operator.edits import edited
from tests.operator.rendered import container, pod, rendered


def test_a_model_on_a_volume_is_mounted_read_only(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model.source": "pvc://weights/qwen"})
    volume = next(volume for volume in pod(manifest)["spec"]["volumes"] if volume["name"] == "model-0")
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    mounted = {"name": "model-0", "mountPath": "/models/weights", "readOnly": True}
    assert mounted in container(manifest)["volumeMounts"]


def test_a_model_in_an_image_is_mounted_where_it_is_loaded(digits: dict[str, Any]) -> None:
    model = {"source": "oci://registry/sdxl:1", "pullPolicy": "Always", "pullSecrets": ["models", "shared"]}
    manifest = edited(digits, {"spec.model": model, "spec.image.pullSecrets": ["workers", "shared"]})
    volume = {"name": "model-image", "image": {"reference": "registry/sdxl:1", "pullPolicy": "Always"}}
    mount = {"name": "model-image", "mountPath": "/model", "readOnly": True}
    for name, loads in {"digits-painter": True, "digits-head": False}.items():
        assert (volume in pod(manifest, name)["spec"]["volumes"]) is loads
        assert (mount in container(manifest, name)["volumeMounts"]) is loads
    secrets = [{"name": name} for name in ("workers", "shared", "models")]
    assert pod(manifest)["spec"]["imagePullSecrets"] == secrets
    assert pod(manifest, "digits-head")["spec"]["imagePullSecrets"] == secrets[:2]
    assert not [name for kind, name in rendered(manifest) if kind in ("Job", "PersistentVolumeClaim")]


def test_adapters_restart_no_pod_unless_a_volume_must_be_mounted(two: dict[str, Any]) -> None:
    def templates(*sources: str) -> dict[str, Any]:
        loras = [{"name": name, "source": source} for name, source in zip("abc", sources, strict=False)]
        manifest = edited(two, {"spec.stages.1.loras": loras, "spec.stages.0.task": "encode"})
        return {name: pod(manifest, name) for name in ("two-head", "two-thinker", "two-painter")}

    none = templates()
    assert templates("hf://org/ink") == templates("/loras/ink", "hf://org/oil") == none
    mounted = templates("hf://org/ink", "pvc://styles/oil.safetensors", "oci://registry/sand:1")
    assert mounted["two-head"] == none["two-head"]
    for name in ("two-thinker", "two-painter"):  # the encoder loads the adapters of the stage that it encodes for
        spec = mounted[name]["spec"]
        claim = {"claimName": "styles", "readOnly": True}
        assert {"name": "model-0", "persistentVolumeClaim": claim} in spec["volumes"]
        assert {"name": "lora-image-0", "image": {"reference": "registry/sand:1"}} in spec["volumes"]
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert (mounts["model-0"], mounts["lora-image-0"]) == ("/models/styles", "/loras/c")


def test_the_head_finds_adapters_where_pods_mount_them(digits: dict[str, Any]) -> None:
    sources = {"a": "pvc://styles/oil.safetensors", "b": "oci://registry/sand:1", "c": "hf://org/ink"}
    loras = [{"name": name, "source": source} for name, source in sources.items()]
    config = rendered(edited(digits, {"spec.stages.0.loras": loras}))["ConfigMap", "digits"]["data"]["stages.json"]
    assert [(one["name"], one["source"]) for one in json.loads(config)["stages"][0]["loras"]] == [
        ("a", "/models/styles/oil.safetensors"),
        ("b", "/loras/b"),
        ("c", "hf://org/ink"),
    ]


def test_a_change_of_an_image_reaches_the_head_and_the_pods_that_load_it(two: dict[str, Any]) -> None:
    def templates(thinker: str) -> dict[str, Any]:
        edits = {"spec.model.source": "oci://registry/painter:1", "spec.stages.0.model": {"source": f"oci://{thinker}"}}
        manifest = edited(two, edits)
        return {name: pod(manifest, name) for name in ("two-head", "two-thinker", "two-painter")}

    before, after = templates("registry/thinker:1"), templates("registry/thinker:2")
    assert {name for name in before if before[name] != after[name]} == {"two-head", "two-thinker"}


def test_without_a_pull_policy_the_cluster_has_its_own(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model.source": "oci://registry/sdxl:1"})
    assert {"name": "model-image", "image": {"reference": "registry/sdxl:1"}} in pod(manifest)["spec"]["volumes"]


def test_what_is_downloaded_goes_to_the_cache_that_is_made(two: dict[str, Any]) -> None:
    cache = {"size": "200Gi", "storageClass": "fast"}
    own = {"spec.model": {"source": "hf://a/b", "cache": cache}, "spec.stages.0.model": {"source": "pvc://weights"}}
    manifest = edited(two, own)
    claim = rendered(manifest)["PersistentVolumeClaim", "two-models"]
    assert controller_uid(claim) == "uid-of-two"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "200Gi"}},
        "storageClassName": "fast",
    }
    for name, downloads in {"two-head": False, "two-painter": True, "two-thinker": False}.items():
        omni = container(manifest, name)
        assert ({"name": "model-cache", "mountPath": "/cache"} in omni["volumeMounts"]) is downloads
        assert ({"name": "HF_HOME", "value": "/cache"} in omni["env"]) is downloads
        volume = {"name": "model-cache", "persistentVolumeClaim": {"claimName": "two-models"}}
        assert (volume in pod(manifest, name)["spec"]["volumes"]) is downloads


RETAINED: dict[str, tuple[dict[str, Any], str]] = {
    "models": ({"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "retain": True}}}, "digits-models"),
    "videos": ({"spec.videos": {"storage": {"size": "1Gi", "retain": True}}}, "digits-videos"),
}


@pytest.mark.parametrize("row", RETAINED)
def test_a_claim_that_is_to_outlive_the_pipeline_has_no_owner_and_no_tool_prunes_it(
    digits: dict[str, Any], row: str
) -> None:
    edits, name = RETAINED[row]
    metadata = rendered(edited(digits, edits))["PersistentVolumeClaim", name]["metadata"]
    assert "ownerReferences" not in metadata
    assert metadata["annotations"]["omnipipeline.dev/retained"] == "true"
    assert metadata["labels"]["omnipipeline.dev/pipeline"] == "digits", "a new pipeline finds it"
    assert "app.kubernetes.io/instance" not in metadata["labels"], "by which Argo CD may track applications"
    assert "Prune=false" in metadata["annotations"]["argocd.argoproj.io/sync-options"]
    assert metadata["annotations"]["kustomize.toolkit.fluxcd.io/prune"] == "disabled"


def test_a_claim_of_the_users_own_is_used_and_not_made(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model": {"source": "hf://a/b", "cache": {"claimName": "mine"}}})
    assert not [name for kind, name in rendered(manifest) if kind == "PersistentVolumeClaim"]
    volume = {"name": "model-cache", "persistentVolumeClaim": {"claimName": "mine"}}
    assert volume in pod(manifest)["spec"]["volumes"]


def test_the_head_alone_knows_the_database_of_videos_and_by_its_environment(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.videos.databaseUrlSecretRef": {"name": "database"}})
    head, painter = container(manifest, "digits-head"), container(manifest)
    reference = {"secretKeyRef": {"name": "database", "key": "url"}}
    assert {"name": "OMNI_DATABASE_URL", "valueFrom": reference} in head["env"]
    assert "OMNI_DATABASE_URL" not in [variable["name"] for variable in painter["env"]]
    assert head["args"] == container(digits, "digits-head")["args"]


def test_a_head_has_the_cache_and_the_token_only_if_it_loads_the_model_itself(digits: dict[str, Any]) -> None:
    """Otherwise it would wait for a ReadWriteOnce volume that is attached to the replicas' node."""
    hub = {"source": "hf://a/b", "cache": {"size": "1Gi"}, "tokenSecretRef": {"name": "hub"}}
    for local_replicas in (0, 1):
        manifest = edited(digits, {"spec.model": hub, "spec.head.localReplicas": local_replicas})
        volumes = [volume["name"] for volume in pod(manifest, "digits-head")["spec"]["volumes"]]
        variables = [variable["name"] for variable in container(manifest, "digits-head")["env"]]
        assert ("model-cache" in volumes) is bool(local_replicas)
        assert ("HF_HOME" in variables, "HF_TOKEN" in variables) == (bool(local_replicas),) * 2


def test_a_head_with_replicas_of_a_built_in_model_has_no_cache(two: dict[str, Any]) -> None:
    own = {"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi"}}, "spec.head.localReplicas": 1}
    manifest = edited(two, own | {"spec.stages.0.model": {"source": "builtin://digits"}})
    assert "model-cache" not in [volume["name"] for volume in pod(manifest, "two-head")["spec"]["volumes"]]
    assert "model-cache" in [volume["name"] for volume in pod(manifest, "two-painter")["spec"]["volumes"]]


def test_pods_that_compile_have_the_cache_wherever_their_model_is(two: dict[str, Any]) -> None:
    own = {"spec.model": {"source": "pvc://weights", "cache": {"size": "1Gi"}}}
    for settings, keeps in (({"compile": {}}, True), ({"compile": {"cache": False}}, False)):
        manifest = edited(two, own | {"spec.stages.0.model": {"source": "hf://a/b"}, "spec.stages.1.load": settings})
        omni = container(manifest, "two-painter")
        assert ({"name": "model-cache", "mountPath": "/cache"} in omni["volumeMounts"]) is keeps
        assert ({"name": "HF_HOME", "value": "/cache"} in omni["env"]) is keeps
    manifest = edited(two, own | {"spec.stages.1.load": {"compile": {}}})
    assert "model-cache" in [volume["name"] for volume in pod(manifest, "two-painter")["spec"]["volumes"]]
    assert "model-cache" not in [volume["name"] for volume in pod(manifest, "two-head")["spec"]["volumes"]]


def test_videos_are_kept_on_a_volume_of_the_heads_alone(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.videos.storage": {"size": "20Gi", "storageClass": "fast", "retain": True}})
    claim = rendered(manifest)["PersistentVolumeClaim", "digits-videos"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "20Gi"}},
        "storageClassName": "fast",
    }
    assert "ownerReferences" not in claim["metadata"], "it outlives the pipeline"
    volume = {"name": "videos", "persistentVolumeClaim": {"claimName": "digits-videos"}}
    mount = {"name": "videos", "mountPath": "/videos"}
    for name, has in {"digits-head": True, "digits-painter": False}.items():
        assert (volume in pod(manifest, name)["spec"]["volumes"]) is has
        assert (mount in container(manifest, name)["volumeMounts"]) is has
    assert "--data-dir=/videos" in container(manifest, "digits-head")["args"]


def test_videos_on_a_claim_of_the_users_own_need_none_that_is_made(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.videos.storage.claimName": "mine"})
    assert not [name for kind, name in rendered(manifest) if kind == "PersistentVolumeClaim"]
    volume = {"name": "videos", "persistentVolumeClaim": {"claimName": "mine"}}
    assert volume in pod(manifest, "digits-head")["spec"]["volumes"]


def test_claims_of_stages_are_mounted_apart(two: dict[str, Any]) -> None:
    own = {"spec.model.source": "pvc://weights", "spec.stages.0.model": {"source": "pvc://language.models/qwen"}}
    manifest = edited(two, own)

    def mounted(name: str) -> dict[str, str]:
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod(manifest, name)["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container(manifest, name)["volumeMounts"]}
        return {claim: mounts[volume] for volume, claim in claims.items()}

    weights, language = {"weights": "/models/weights"}, {"language.models": "/models/language.models"}
    assert mounted("two-painter") == weights
    assert mounted("two-thinker") == language
    assert mounted("two-head") == weights | language
