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

LANGUAGE_MODEL = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Download them one after the other. 1, and a message that names the model, where that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m omni_worker.commands.fetch", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="hf://org/name, or hf://org/name@revision")
    args = parser.parse_args(arguments)
    configure_logging("info", "fetch")
    for chatty in ("httpx", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for text in args.models:
        name, _, revision = text.partition("@")
        try:
            log.info("downloading %s", text)
            log.info("%s is in %s", text, download(model_source.parse(name, revision or None)))
        except Exception as error:  # the libraries raise whatever the connection raised
            print(f"{text} cannot be downloaded: {error}", file=sys.stderr)
            return 1
    return 0


def download(source: ModelSource) -> str:
    """The folder in which it is now: a pipeline of diffusers, or a language model of transformers."""
    import huggingface_hub  # here, so that a wrong argument need not wait for them

    if source.is_local:
        raise UsageError("it is on this machine already; give one of the hub, like hf://org/name")
    if huggingface_hub.file_exists(source.location, "model_index.json", revision=source.revision):
        import diffusers

        return str(diffusers.DiffusionPipeline.download(source.location, revision=source.revision))
    return huggingface_hub.snapshot_download(
        source.location, revision=source.revision, allow_patterns=list(LANGUAGE_MODEL)
    )


if __name__ == "__main__":
    sys.exit(main())
