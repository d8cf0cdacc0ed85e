"""Logging of every process of the worker: one line an event, on stderr."""

import logging
import sys
import warnings


def configure_logging(level: str, who: str) -> None:
    """Log from `level` up; `who` says which process speaks."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s {who}: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )
    requests = logging.getLogger("omni_worker.requests")
    requests.handlers, requests.propagate = [logging.StreamHandler(sys.stderr)], False  # JSON and nothing else
    for chatty in ("httpx", "httpcore", "urllib3", "filelock", "transformers", "diffusers", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="diffusers|transformers|torch")
