"""The flags of `omni serve`. `serve_config` reads their values."""

import argparse

from omni_worker.config import api as api_config
from omni_worker.config import cache_settings, load_settings, model_source
from omni_worker.config.flag_types import at_least, port, seconds
from omni_worker.config.stages import ENGINES, TASKS
from omni_worker.requests import NO_CACHE

LB_POLICIES = ("random", "round-robin", "least-queue-length", "power-of-two")
SCHEDULING_POLICIES = ("fifo", "drr", "srpt", "edf")
PROMPT_CACHE_BYTES = 256 * 1024**2
AUTO_MAX_NUM_SEQS = 32
"""The bound of `--max-num-seqs auto`, below which the engine finds the best batch size."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omni serve`, in the order in which its help lists them."""
    _add_model_and_stage_flags(parser)
    _add_network_flags(parser)
    _add_engine_flags(parser)
    _add_process_flags(parser)
    api_config.add_arguments(parser)


def _add_model_and_stage_flags(parser: argparse.ArgumentParser) -> None:
    """What the process serves: its model, and its stage of the pipeline."""
    parser.add_argument("model", metavar="MODEL", help=f"the model to serve; {model_source.FORMS}")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    parser.add_argument("--served-model-name", metavar="NAME", help="its name in the API (default: MODEL)")
    parser.add_argument("--stage-id", type=at_least(0), default=0, metavar="N", help="the stage to run (default: 0)")
    parser.add_argument(
        "--engine", choices=ENGINES, help="what the stage does (default: what --stage-config or the model's files say)"
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="generate",
        help="for an autoregressive stage: generate text, or encode the prompt for the next stage",
    )
    parser.add_argument(
        "--text-encoder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="load a pipeline's text encoder; --no-text-encoder where the stage before encodes (default: load it)",
    )
    parser.add_argument("--headless", action="store_true", help="run replicas only, and join the head")


def _add_network_flags(parser: argparse.ArgumentParser) -> None:
    """How the processes of a pipeline find each other, and how a head chooses among its replicas."""
    parser.add_argument(
        "--host",
        metavar="ADDR",
        help="address of the HTTP server (default: *, all addresses of IPv4 and IPv6, with --omni-secret-file or "
        "--insecure, else 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=port,
        default=8000,
        help="head: API, probes, metrics; headless: probes, metrics (default: 8000)",
    )
    parser.add_argument(
        "--omni-master-address",
        metavar="ADDR",
        help="head: address to listen on for replicas (default: that of --host if it is loopback, or as that one); "
        "headless: the head",
    )
    parser.add_argument(
        "--omni-master-port", type=port, default=9000, metavar="PORT", help="where replicas register (default: 9000)"
    )
    parser.add_argument(
        "--omni-coordinator-port",
        type=port,
        default=9001,
        metavar="PORT",
        help="head: replicas report here (default: 9001)",
    )
    parser.add_argument(
        "--omni-coordinator-pub-port",
        type=port,
        default=9002,
        metavar="PORT",
        help="head: membership goes out (default: 9002)",
    )
    parser.add_argument(
        "--omni-dp-size-local",
        type=at_least(0),
        default=1,
        metavar="N",
        help="replicas in this process (default: 1)",
    )
    parser.add_argument(
        "--omni-lb-policy",
        choices=LB_POLICIES,
        default="least-queue-length",
        help="head: routing policy (default: least-queue-length)",
    )
    parser.add_argument(
        "--omni-heartbeat-timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="head: silence after which a replica gets no requests (default: 30)",
    )
    parser.add_argument(
        "--omni-replica-address",
        metavar="ADDR",
        help="address at which the head reaches this process's replicas (default: the one the kernel uses towards it)",
    )
    parser.add_argument(
        "--omni-replica-port",
        type=port,
        default=9100,
        metavar="PORT",
        help="data port of the first replica (default: 9100)",
    )
    parser.add_argument(
        "--omni-secret-file",
        metavar="FILE",
        help="a secret of 32 bytes or more that all processes of a pipeline share, to speak encrypted (default: none)",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen for replicas on all interfaces without --omni-secret-file: anyone who reaches the ports may read "
        "and forge requests",
    )
    parser.add_argument("--replica-id", help="deprecated, ignored: the master gives out the ids")


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """How a replica loads its model and runs its requests."""
    parser.add_argument(
        "--step-execution",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="batch requests at every denoising step, or run each whole (default: step where the pipeline can)",
    )
    parser.add_argument(
        "--max-num-seqs",
        type=_count_or_auto,
        default="auto",
        metavar="N",
        help="requests that a replica runs concurrently; auto: 32, in batches of a worthwhile size (default: auto)",
    )
    parser.add_argument(
        "--max-waiting",
        type=at_least(0),
        default=256,
        metavar="N",
        help="requests that wait at a replica beyond those; more are rejected with HTTP 429 (default: 256)",
    )
    parser.add_argument(
        "--scheduling-policy",
        choices=SCHEDULING_POLICIES,
        default="fifo",
        help="who runs next: in order (fifo), fair shares (drr), the shortest (srpt), the earliest deadline "
        "(edf) (default: fifo)",
    )
    parser.add_argument(
        "--cfg-parallel-size",
        type=at_least(1),
        default=1,
        metavar="N",
        help="processes of each replica, a device each, over which the rows of a batched model call are spread "
        "(default: 1)",
    )
    parser.add_argument(
        "--pipeline-parallel-size",
        type=at_least(1),
        default=1,
        metavar="N",
        help="processes of each replica, a device each, over which the layers of a language model are spread "
        "(default: 1)",
    )
    parser.add_argument(
        "--ulysses-degree",
        type=at_least(1),
        default=1,
        metavar="N",
        help="devices that compute each call of a denoiser together, each with a part of its sequence and of its "
        "attention heads; each replica has this many processes, times those of --cfg-parallel-size (default: 1)",
    )
    parser.add_argument(
        "--ring-degree",
        type=at_least(1),
        default=1,
        metavar="N",
        help="devices that compute each call of a denoiser together, each with a part of its sequence, and pass on "
        "keys and values in each attention, which needs a kernel for it (--attention) (default: 1)",
    )
    parser.add_argument(
        "--tensor-parallel-size",
        type=at_least(1),
        default=1,
        metavar="N",
        help="devices over which the weights of each denoiser are divided, so that a model can be larger than one "
        "device; each replica has this many processes, times those of --cfg-parallel-size (default: 1)",
    )
    parser.add_argument(
        "--step-timeout",
        type=seconds,
        default=600.0,
        metavar="SECONDS",
        help="time after which a step counts as failed and the replica restarts (default: 600)",
    )
    load_settings.add_arguments(parser)
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a LoRA adapter that requests can select by its name; SOURCE is a file, a folder, or hf://org/name; or "
        'JSON: {"name": …, "source": …, "weightName": …, "scale": …, "component": …}. Can be given several times',
    )
    parser.add_argument(
        "--cache",
        type=cache_settings.parse,
        default=NO_CACHE,
        metavar="MODE",
        help="which model calls are left out where a request does not say: none, or skip[,tolerance=X]"
        "[,maxConsecutive=N], which extrapolates those of smooth steps; or one of diffusers' caches inside the model: "
        "first-block[,threshold=X], taylor-seer[,interval=N][,order=N], mag, faster, pyramid-attention, text-kv "
        "(default: none)",
    )
    parser.add_argument(
        "--prompt-cache-bytes",
        type=at_least(0),
        default=PROMPT_CACHE_BYTES,
        metavar="N",
        help="memory of the host in which a replica keeps what text encoders made of prompts, so that a prompt that "
        f"is repeated is not encoded again; 0 keeps nothing (default: {PROMPT_CACHE_BYTES})",
    )


def _add_process_flags(parser: argparse.ArgumentParser) -> None:
    """How the process starts, drains, traces and logs; and the file that names the stages."""
    parser.add_argument(
        "--stage-init-timeout",
        type=seconds,
        default=600.0,
        metavar="SECONDS",
        help="time to load the model (default: 600)",
    )
    parser.add_argument("--stage-config", metavar="FILE", help="head: YAML or JSON that names the pipeline's stages")
    parser.add_argument(
        "--drain-timeout",
        type=seconds,
        default=300.0,
        metavar="SECONDS",
        help="after SIGTERM, time to finish (default: 300)",
    )
    parser.add_argument(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="where spans of requests go, by OTLP over HTTP, like http://collector:4318/v1/traces"
        " (default: what $OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or $OTEL_EXPORTER_OTLP_ENDPOINT say; else nowhere)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what is logged (default: info)",
    )


def _count_or_auto(text: str) -> int | str:
    return text if text == "auto" else at_least(1)(text)
