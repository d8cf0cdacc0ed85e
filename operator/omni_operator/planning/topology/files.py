"""The files that processes read and write: their names, and the folders in which pods have them."""

from dataclasses import dataclass
from pathlib import PurePath

from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage

STAGE_CONFIG_DIR = "/etc/omnipipeline"
STAGE_CONFIG_FILE = "stages.json"
KEYS_DIR = "/etc/omnipipeline-keys"
KEYS_FILE = "secret"
API_KEYS_DIR = "/etc/omnipipeline-api"
API_KEYS_FILE = "keys"
TLS_DIR = "/etc/omnipipeline-tls"
CERTIFICATE_FILE = "tls.crt"
PRIVATE_KEY_FILE = "tls.key"
VIDEOS_DIR = "/videos"
ENDPOINT_KEYS_DIR = "/etc/omnipipeline-endpoints"


@dataclass(frozen=True)
class ProcessFiles:
    """Paths of the files of a pipeline's processes. None: the pipeline has no such file.

    stage_config: the list of stages, for the head
    keys: the secret from which processes derive the keys of their connections
    endpoint_keys: the folder with the keys of servers outside the pipeline
    api_keys: the keys that the API accepts
    tls: certificate and private key of the API
    videos: folder for videos and their jobs, which outlives the head
    """

    stage_config: str
    keys: str
    endpoint_keys: str
    api_keys: str | None = None
    tls: tuple[str, str] | None = None
    videos: str | None = None


def files_in_pods(pipeline: OmniPipeline) -> ProcessFiles:
    """The paths at which `manifests.pod` mounts them."""
    return ProcessFiles(
        stage_config=f"{STAGE_CONFIG_DIR}/{STAGE_CONFIG_FILE}",
        keys=f"{KEYS_DIR}/{KEYS_FILE}",
        endpoint_keys=ENDPOINT_KEYS_DIR,
        api_keys=f"{API_KEYS_DIR}/{API_KEYS_FILE}" if pipeline.spec.api_key_secret_ref else None,
        tls=(f"{TLS_DIR}/{CERTIFICATE_FILE}", f"{TLS_DIR}/{PRIVATE_KEY_FILE}") if pipeline.speaks_tls else None,
        videos=VIDEOS_DIR if pipeline.spec.videos.storage else None,
    )


def files_in_folder(folder: PurePath) -> ProcessFiles:
    """The paths on one machine, where nothing comes from a Secret or a volume."""
    return ProcessFiles(
        stage_config=str(folder / STAGE_CONFIG_FILE), keys=str(folder / KEYS_FILE), endpoint_keys=str(folder)
    )


def endpoint_key_name(stage: Stage) -> str:
    """The file in the folder `endpoint_keys` with the key of the server that a stage is."""
    return f"endpoint-key-{stage.name}"
