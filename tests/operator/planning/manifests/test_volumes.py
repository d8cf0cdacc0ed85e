"""The volumes of a pipeline: models, downloads and videos."""

from typing import Any

from omni_operator.planning.manifests.ownership import controller_uid
from tests.operator.edits import edited
from tests.operator.rendered import container, pod, rendered


def test_a_model_on_a_volume_is_mounted_read_only(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model.source": "pvc://weights/qwen"})
    volume = next(volume for volume in pod(manifest)["spec"]["volumes"] if volume["name"] == "model-0")
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    mounted = {"name": "model-0", "mountPath": "/models/weights", "readOnly": True}
    assert mounted in container(manifest)["volumeMounts"]


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
    for name, downloads in {"two-head": True, "two-painter": True, "two-thinker": False}.items():
        omni = container(manifest, name)
        assert ({"name": "model-cache", "mountPath": "/cache"} in omni["volumeMounts"]) is downloads
        assert ({"name": "HF_HOME", "value": "/cache"} in omni["env"]) is downloads
        volume = {"name": "model-cache", "persistentVolumeClaim": {"claimName": "two-models"}}
        assert (volume in pod(manifest, name)["spec"]["volumes"]) is downloads


def test_a_claim_that_is_to_outlive_the_pipeline_has_no_owner(digits: dict[str, Any]) -> None:
    manifest = edited(digits, {"spec.model": {"source": "hf://a/b", "cache": {"size": "1Gi", "retain": True}}})
    metadata = rendered(manifest)["PersistentVolumeClaim", "digits-models"]["metadata"]
    assert "ownerReferences" not in metadata
    assert metadata["annotations"]["omnipipeline.dev/retained"] == "true"


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


def test_models_are_fetched_by_a_job_of_a_container_and_a_token_each(two: dict[str, Any]) -> None:
    cache = {"size": "200Gi", "prefetch": True}
    own = {"source": "hf://c/d", "tokenSecretRef": {"name": "hub"}}
    manifest = edited(two, {"spec.model": {"source": "hf://a/b", "revision": "v1", "cache": cache}})
    manifest = edited(manifest, {"spec.stages.0.model": own})
    (job,) = (child for (kind, _), child in rendered(manifest).items() if kind == "Job")
    assert job["metadata"]["labels"]["omnipipeline.dev/role"] == "prefetch"
    spec = job["spec"]["template"]["spec"]
    first, second = spec["containers"]
    assert [each["args"] for each in (first, second)] == [["fetch", "hf://a/b@v1"], ["fetch", "hf://c/d"]]
    assert "command" not in first, "the image's entrypoint starts an init, which passes signals on"
    assert [any(one["name"] == "HF_TOKEN" for one in each["env"]) for each in (first, second)] == [False, True]
    for each in (first, second):
        assert {"name": "HF_HOME", "value": "/cache"} in each["env"]
        assert {"name": "model-cache", "mountPath": "/cache"} in each["volumeMounts"]
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert "resources" not in each, "no device waits for a download"
    assert {"name": "model-cache", "persistentVolumeClaim": {"claimName": "two-models"}} in spec["volumes"]
    (other,) = (kind for kind in rendered(edited(manifest, {"spec.model.revision": "v2"})) if kind[0] == "Job")
    assert other != ("Job", job["metadata"]["name"]), "a Job cannot be changed"
    for edits in ({"spec.suspend": True}, {"spec.model.cache.prefetch": False}):
        assert not [name for kind, name in rendered(edited(manifest, edits)) if kind == "Job"]


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
