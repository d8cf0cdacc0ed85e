"""The Job that downloads a pipeline's models into its cache before pods with devices start.

A Job cannot be changed, so its name contains a hash of what it downloads and how. It retries up to ATTEMPTS times.
While it fails, because a token is wrong or the hub is unavailable, the pipeline's status says so.
"""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.parts import Model
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.claims import CACHE_DIR, CACHE_VOLUME, cache_claim_name
from omni_operator.planning.manifests.ownership import child, content_hash
from omni_operator.planning.manifests.pod import confined_container, confined_pod, hub_environment
from omni_operator.planning.topology.model_sources import is_on_hub

ATTEMPTS = 1000
"""Retries of the Job: some days' worth, because Kubernetes waits up to five minutes before each of them."""


def prefetch_jobs(pipeline: OmniPipeline, worker_image: str) -> list[Object]:
    """One, or none if the pipeline asks for none or is suspended."""
    cache = pipeline.spec.model.cache
    if cache is None or not cache.prefetch or pipeline.spec.suspend:
        return []
    models = {model_argument(model): model for model in pipeline.models.values() if is_on_hub(model)}
    own_labels = {**labels.common(pipeline.name), labels.ROLE: labels.PREFETCH}
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": cache_claim_name(pipeline, cache)}},
    ]
    pod = {
        **confined_pod(pipeline),
        "restartPolicy": "OnFailure",
        "containers": [download_container(pipeline, models[name], i, worker_image) for i, name in enumerate(models)],
        "volumes": volumes,
    }
    spec = {"backoffLimit": ATTEMPTS, "template": {"metadata": {"labels": own_labels}, "spec": pod}}
    name = f"{pipeline.name}-fetch-{content_hash(spec)[:6]}"
    return [child(pipeline, "batch/v1", "Job", name, own_labels, {"spec": spec})]


def download_container(pipeline: OmniPipeline, model: Model, index: int, worker_image: str) -> Object:
    """A container that downloads one model, since each model may have its own token."""
    return {
        **confined_container(pipeline, worker_image),
        "name": f"model-{index}",
        "args": ["fetch", model_argument(model)],
        "env": [{"name": "HOME", "value": "/tmp"}, *hub_environment(CACHE_DIR, model.token_secret_ref)],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": CACHE_VOLUME, "mountPath": CACHE_DIR}],
    }


def model_argument(model: Model) -> str:
    return f"{model.source}@{model.revision}" if model.revision else model.source
