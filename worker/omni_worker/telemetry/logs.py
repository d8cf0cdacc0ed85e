"""Logging of every worker process: one line per event, on stderr."""

import logging
import sys
import warnings


def configure_logging(level: str, process: str) -> None:
    """Log messages of `level` and above. `process` is the name of this process in every line."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s {process}: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )
    requests = logging.getLogger("omni_worker.requests")
    requests.handlers, requests.propagate = [logging.StreamHandler(sys.stderr)], False  # lines of JSON without a prefix
    for chatty in ("httpx", "httpcore", "urllib3", "filelock", "transformers", "diffusers", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="diffusers|transformers|torch")
