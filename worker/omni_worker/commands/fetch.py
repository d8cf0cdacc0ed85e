"""What a pipeline's prefetch runs: downloads models of the hub into the cache, and loads none.

`python -m omni_worker.commands.fetch hf://ORG/NAME[@REVISION] …`. The cache is where the libraries keep it (HF_HOME);
the token comes from HF_TOKEN. Files that exist are not downloaded again.

It takes the files that a replica will look for when it loads the model, and no others: repositories often hold the same
weights several times, in other formats and precisions.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from omni_worker.config import model_source
from omni_worker.config.model_source import ModelSource
from omni_worker.errors import UsageError
from omni_worker.telemetry.logs import configure_logging

LANGUAGE_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Download the models one after the other. Returns 1, with a message that names the model, if one fails."""
    parser = argparse.ArgumentParser(prog="python -m omni_worker.commands.fetch", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="hf://org/name, or hf://org/name@revision")
    args = parser.parse_args(arguments)
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
    if huggingface_hub.file_exists(source.location, "model_index.json", revision=source.revision):
        import diffusers

        return str(
            diffusers.DiffusionPipeline.download(
                source.location, revision=source.revision, trust_remote_code=False, use_safetensors=True
            )
        )
    return huggingface_hub.snapshot_download(
        source.location, revision=source.revision, allow_patterns=list(LANGUAGE_MODEL_FILES)
    )


if __name__ == "__main__":
    sys.exit(main())
