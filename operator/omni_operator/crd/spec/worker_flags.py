"""The flags of `omni serve` as far as the object is concerned. A test compares them with the worker's own parser."""

import difflib

EXTRA = ("--allowed-host", "--log-level", "--otlp-traces-endpoint", "--step-timeout")
"""Flags that no field of the object sets."""
EXTRA_ARGUMENT = f"^--({'|'.join(flag.removeprefix('--') for flag in EXTRA)})=.+$"
"""Pattern of an item of extraArgs."""

FIELDS = {
    "--revision": "model.revision",
    "--engine": "stages[].engine",
    "--task": "stages[].task",
    "--text-encoder": "stages[].task",
    "--no-text-encoder": "stages[].task",
    "--omni-dp-size-local": "stages[].localReplicas",
    "--omni-lb-policy": "loadBalancing.policy",
    "--omni-heartbeat-timeout": "loadBalancing.heartbeatTimeoutSeconds",
    "--step-execution": "stages[].scheduling.mode",
    "--no-step-execution": "stages[].scheduling.mode",
    "--load": "stages[].load",
    "--dtype": "stages[].load.dtype",
    "--quantization": "stages[].load.quantization",
    "--custom-pipeline": "stages[].load.customPipeline",
    "--trust-remote-code": "stages[].load.trustRemoteCode",
    "--offload": "stages[].load.offload",
    "--vae-tiling": "stages[].load.vae.tiling",
    "--no-vae-tiling": "stages[].load.vae.tiling",
    "--vae-slicing": "stages[].load.vae.slicing",
    "--no-vae-slicing": "stages[].load.vae.slicing",
    "--attention": "stages[].load.attention",
    "--compile": "stages[].load.compile",
    "--lora": "stages[].loras",
    "--cache": "stages[].cache",
    "--prompt-cache-bytes": "stages[].promptCacheSize",
    "--max-num-seqs": "stages[].scheduling.maxNumSeqs",
    "--max-waiting": "stages[].scheduling.maxWaiting",
    "--scheduling-policy": "stages[].scheduling.policy",
    "--cfg-parallel-size": "stages[].parallelism.cfg",
    "--pipeline-parallel-size": "stages[].parallelism.pipeline",
    "--tensor-parallel-size": "stages[].parallelism.tensor",
    "--ring-degree": "stages[].parallelism.ring",
    "--ulysses-degree": "stages[].parallelism.ulysses",
    "--stage-init-timeout": "stages[].startupTimeoutSeconds",
    "--drain-timeout": "stages[].drain.timeoutSeconds",
    "--ssl-certfile": "api.tls",
    "--ssl-keyfile": "api.tls",
    "--api-key-file": "apiKeySecretRef",
    "--cors-origin": "api.corsOrigins",
    "--playground": "api.playground",
    "--no-playground": "api.playground",
    "--max-pixels": "api.limits.pixels",
    "--max-steps": "api.limits.steps",
    "--max-frames": "api.limits.frames",
    "--max-video-pixels": "api.limits.videoPixels",
    "--max-audio-seconds": "api.limits.audioSeconds",
    "--result-cache-bytes": "api.resultCacheSize",
    "--max-n": "api.limits.answers",
    "--max-body-bytes": "api.limits.bodySize",
    "--max-buffered-bytes": "api.limits.totalBodySize",
    "--max-prompt-length": "api.limits.promptLength",
    "--max-loras": "api.limits.loras",
    "--max-lora-bytes": "api.limits.loraSize",
    "--data-dir": "videos.storage",
    "--database-url": "videos.databaseUrlSecretRef",
    "--video-jobs": "videos.jobs",
    "--video-max-age": "videos.maxAgeHours",
    "--video-max-bytes": "videos.maxSize",
}
"""Flags that a field of the spec sets."""
OPERATORS = (
    "--served-model-name",
    "--stage-id",
    "--headless",
    "--host",
    "--port",
    "--omni-master-address",
    "--omni-master-port",
    "--omni-coordinator-port",
    "--omni-coordinator-pub-port",
    "--omni-replica-address",
    "--omni-replica-port",
    "--omni-secret-file",
    "--insecure",
    "--replica-id",
    "--stage-config",
)
"""Flags that the operator sets, or that would break what it sets."""


def extra_argument(argument: str) -> str:
    """The argument itself, if it may be an item of extraArgs. Raises ValueError, with what to do instead."""
    flag, _, value = argument.partition("=")
    if flag in FIELDS:
        raise ValueError(f"set spec.{FIELDS[flag]} instead")
    if flag in OPERATORS:
        raise ValueError("the operator sets this flag; remove it")
    if flag not in EXTRA:
        similar = difflib.get_close_matches(flag, EXTRA, n=1, cutoff=0.7)
        hint = f"did you mean {similar[0]}?" if similar else f"expected one of: {', '.join(EXTRA)}"
        raise ValueError(f"is no flag of omni serve that can be added here; {hint}")
    if not value:
        raise ValueError(f"has no value; write {flag}=VALUE as one item")
    return argument
