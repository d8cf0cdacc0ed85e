"""The Job that downloads a pipeline's models into its cache, before a pod with a device waits for them.

It has a name of its own for what it downloads and how, since a Job cannot be changed. It tries for ever: where a token
is wrong or the hub is away, the pipeline's status says so, and a correction is all it needs.
"""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.parts import Model
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.claims import CACHE, CACHE_DIR, cache_name
from omni_operator.planning.manifests.ownership import child, content_hash
from omni_operator.planning.manifests.pod import confined_container, confined_pod, hub_environment
from omni_operator.planning.topology.model_sources import is_on_hub

ATTEMPTS = 1000


def prefetch_jobs(pipeline: OmniPipeline, worker_image: str) -> list[Object]:
    """One, or none where it is not asked for."""
    cache = pipeline.spec.model.cache
    if cache is None or not cache.prefetch or pipeline.spec.suspend:
        return []
    models = {argument(model): model for model in pipeline.models.values() if is_on_hub(model)}
    own_labels = {**labels.common(pipeline.name), labels.ROLE: labels.PREFETCH}
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": CACHE, "persistentVolumeClaim": {"claimName": cache_name(pipeline, cache)}},
    ]
    pod = {
        **confined_pod(pipeline),
        "restartPolicy": "OnFailure",
        "containers": [fetching(pipeline, models[name], i, worker_image) for i, name in enumerate(models)],
        "volumes": volumes,
    }
    spec = {"backoffLimit": ATTEMPTS, "template": {"metadata": {"labels": own_labels}, "spec": pod}}
    name = f"{pipeline.name}-fetch-{content_hash(spec)[:6]}"
    return [child(pipeline, "batch/v1", "Job", name, own_labels, {"spec": spec})]


def fetching(pipeline: OmniPipeline, model: Model, index: int, worker_image: str) -> Object:
    """A container for each model, since each may have a token of its own."""
    return {
        **confined_container(pipeline, worker_image),
        "name": f"model-{index}",
        "command": ["python3", "-m", "omni_worker.commands.fetch"],
        "args": [argument(model)],
        "env": [{"name": "HOME", "value": "/tmp"}, *hub_environment(CACHE_DIR, model.token_secret_ref)],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": CACHE, "mountPath": CACHE_DIR}],
    }


def argument(model: Model) -> str:
    return f"{model.source}@{model.revision}" if model.revision else model.source
