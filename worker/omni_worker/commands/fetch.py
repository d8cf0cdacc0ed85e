"""The command `omni fetch`: downloads models of the hub into the cache, and loads none. A prefetch Job runs it.

It takes the files that a replica will look for when it loads the model, and no others: repositories often hold the same
weights several times, in other formats and precisions.
"""

import argparse
import logging
import sys
from pathlib import Path

from omni_settings.model_index import MODULAR_INDEX, PIPELINE_INDEXES, parse_model_index
from omni_settings.model_size import WEIGHTS_FILE
from omni_worker.config import model_source
from omni_worker.config.hub_proxy import require_usable_proxies
from omni_worker.config.model_source import ModelSource
from omni_worker.errors import UsageError
from omni_worker.telemetry.logs import configure_logging

HELP = """Download models of the Hugging Face hub into its cache, before something serves them.

  omni fetch hf://stabilityai/sdxl-turbo
  omni fetch hf://Qwen/Qwen3-0.6B@main hf://stabilityai/sdxl-turbo

The cache is in HF_HOME (~/.cache/huggingface), the token comes from HF_TOKEN, and another hub from HF_ENDPOINT. Only
the files that a replica loads are downloaded, and none that is there already."""
LANGUAGE_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
COMPONENT_FILES = (".safetensors", ".json", ".txt", ".model", ".jinja")
log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="hf://ORG/NAME, or hf://ORG/NAME@REVISION")


def run(args: argparse.Namespace) -> int:
    """Download the models one after the other. Returns 1, with a message that names the model, if one fails."""
    configure_logging("info", "fetch")
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for text in args.models:
        name, _, revision = text.partition("@")
        try:
            log.info("downloading %s", text)
            log.info("%s is in %s", text, download(model_source.parse(name, revision or None)))
        except Exception as error:  # the libraries pass on any error of the connection
            print(f"{text} cannot be downloaded: {error}", file=sys.stderr)
            return 1
    return 0


def download(source: ModelSource) -> str:
    """Download a diffusers pipeline or a transformers model. Returns the folder that contains it."""
    import huggingface_hub  # here, so that wrong arguments fail fast

    if source.is_local:
        raise UsageError("it is on this machine already; give one of the hub, like hf://org/name")
    require_usable_proxies()
    classic, modular = PIPELINE_INDEXES
    if huggingface_hub.file_exists(source.location, classic, revision=source.revision):
        import diffusers

        return str(
            diffusers.DiffusionPipeline.download(
                source.location, revision=source.revision, trust_remote_code=False, use_safetensors=True
            )
        )
    if huggingface_hub.file_exists(source.location, modular, revision=source.revision):
        return _download_modular(source)
    return huggingface_hub.snapshot_download(
        source.location, revision=source.revision, allow_patterns=list(LANGUAGE_MODEL_FILES)
    )


def _download_modular(source: ModelSource) -> str:
    """Download a modular pipeline, whose components can be in several repositories. Returns the folder of its index."""
    import huggingface_hub

    index = huggingface_hub.hf_hub_download(source.location, MODULAR_INDEX, revision=source.revision)
    for name, component in parse_model_index(Path(index).read_text()).components.items():
        place = source.place_of(name, component)
        files = [
            file
            for file in huggingface_hub.list_repo_files(place.location, revision=place.revision)
            if _is_loaded(file, place.subfolder, component.variant)
        ]
        log.info("%s: %d files of %s", name, len(files), place.location)
        huggingface_hub.snapshot_download(place.location, revision=place.revision, allow_patterns=files)
    return str(Path(index).parent)


def _is_loaded(file: str, subfolder: str, variant: str | None) -> bool:
    """Whether a replica loads a file of a repository for the component in `subfolder`."""
    folder, _, name = file.rpartition("/")
    if folder != subfolder or not name.endswith(COMPONENT_FILES):
        return False
    if not name.endswith(".safetensors"):
        return True
    return f".{variant}." in name if variant else WEIGHTS_FILE.fullmatch(name) is not None
