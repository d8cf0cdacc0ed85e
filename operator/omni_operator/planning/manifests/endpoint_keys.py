"""The volume with the keys of the servers that stages are, which only the head has. Kubernetes updates its files."""

from typing import Any

from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.topology.files import ENDPOINT_KEYS_DIR, endpoint_key_name

ENDPOINT_KEYS_VOLUME = "endpoint-keys"


def endpoint_key_volumes(pipeline: OmniPipeline) -> list[dict[str, Any]]:
    """One volume with a file for each such stage that has a key; none if no stage has."""
    sources = [
        {"secret": {"name": secret.name, "items": [{"key": secret.key, "path": endpoint_key_name(stage)}]}}
        for stage in pipeline.spec.stages
        if stage.endpoint and (secret := stage.endpoint.api_key_secret_ref)
    ]
    return [{"name": ENDPOINT_KEYS_VOLUME, "projected": {"defaultMode": 0o440, "sources": sources}}] if sources else []


def endpoint_key_mounts(pipeline: OmniPipeline) -> list[dict[str, Any]]:
    """Where the head finds the files of the volume."""
    mount = {"name": ENDPOINT_KEYS_VOLUME, "mountPath": ENDPOINT_KEYS_DIR, "readOnly": True}
    return [mount] if endpoint_key_volumes(pipeline) else []
