"""The contract between the two packages: the worker's parser accepts every command line of a topology.

This is the only test of the control plane that imports the worker.
"""

import argparse
from pathlib import Path
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.worker_flags import EXTRA, FIELDS, OPERATORS
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.local import local_topology
from omni_operator.planning.topology.model_sources import IMAGE_DIR
from omni_operator.planning.topology.records import Process
from omni_worker.commands import serve
from omni_worker.config import model_source
from omni_worker.config.api import ApiConfig, Certificate, Limits, LoraLimits
from omni_worker.config.records import ServeConfig
from omni_worker.config.serve_config import from_arguments
from tests.operator.edits import edited
from tests.operator.planning.topology.layouts import consecutive_ports

THINKER = {"name": "thinker", "engine": "autoregressive"}
READER = {"name": "painter", "engine": "diffusion", "input": "hidden-states"}
PIPELINES: dict[str, dict[str, Any]] = {
    "the example": {},
    "replicas in the head": {"spec.head.localReplicas": 2},
    "request mode, fixed batch": {"spec.stages.0.scheduling": {"mode": "request", "maxNumSeqs": 4}},
    "several processes a call": {
        "spec.stages.0.accelerator.count": 4,
        "spec.stages.0.parallelism": {"cfg": 2, "ulysses": 2},
    },
    "a ring of processes": {
        "spec.stages.0.accelerator.count": 2,
        "spec.stages.0.parallelism": {"ring": 2},
        "spec.stages.0.load": {"attention": "flash"},
    },
    "weights over several processes": {
        "spec.stages.0.accelerator.count": 2,
        "spec.stages.0.parallelism": {"tensor": 2},
    },
    "several processes a replica": {"spec.stages.0.accelerator.count": 2, "spec.stages.0.parallelism.cfg": 2},
    "several replicas a pod": {"spec.stages.0.localReplicas": 3},
    "a model on the hub": {"spec.model": {"source": "hf://Qwen/Qwen-Image", "revision": "refs/pr/1"}},
    "a model in an image": {"spec.model": {"source": "oci://localhost/model:1"}},
    "models in two images": {
        "spec.model": {"source": f"oci://localhost/painter@sha256:{'0' * 64}"},
        "spec.stages": [{**THINKER, "model": {"source": "oci://localhost/thinker:1"}}, READER],
    },
    "a cache": {"spec.stages.0.cache": {"tolerance": 0.05, "maxConsecutive": 2}},
    "a prompt cache": {"spec.stages.0.promptCacheSize": "64Mi"},
    "diffusers' cache": {"spec.stages.0.cache": {"mode": "taylor-seer", "interval": 3, "order": 2}},
    "magnitudes": {"spec.stages.0.cache": {"mode": "mag", "ratios": [1.0, 0.5]}},
    "no cache": {"spec.stages.0.cache": {"mode": "none"}},
    "adapters": {
        "spec.stages.0.loras": [
            {"name": "ink", "source": "hf://org/ink@v1", "scale": 0.5},
            {"name": "oil", "source": "/loras", "weightName": "oil.safetensors", "component": "transformer_2"},
        ]
    },
    "how it is loaded": {
        "spec.stages.0.load": {"dtype": "bfloat16", "componentDtypes": {"vae": "float32"}, "compile": {}}
    },
    "how it is quantized": {
        "spec.stages.0.load": {
            "quantization": {
                "transformer": {"backend": "torchao", "type": "Int4WeightOnlyConfig", "options": {"group_size": 64}},
                "text_encoder": {"backend": "bitsandbytes_4bit", "options": {"bnb_4bit_quant_type": "nf4"}},
            }
        }
    },
    "how it warms up": {
        "spec.stages.0.load": {"compile": {}, "warmUp": {"sizes": ["64x64", "32x64"], "batchSizes": [1, 8]}}
    },
    "its own code": {"spec.stages.0.load": {"customPipeline": "pipeline.py", "trustRemoteCode": True}},
    "how it fits": {"spec.stages.0.load": {"offload": "model", "vae": {"tiling": True}, "attention": "_native_flash"}},
    "every policy: random": {"spec.loadBalancing.policy": "random"},
    "every policy: round-robin": {"spec.loadBalancing.policy": "round-robin"},
    "every policy: least-queue-length": {"spec.loadBalancing.policy": "least-queue-length"},
    "every policy: power-of-two": {"spec.loadBalancing.policy": "power-of-two"},
    "another order": {"spec.stages.0.scheduling.policy": "srpt"},
    "keys of clients": {"spec.apiKeySecretRef": {"name": "clients"}},
    "an API for a web page": {
        "spec.api": {
            "tls": {"secretName": "certificate"},
            "corsOrigins": ["https://example.org", "*"],
            "playground": False,
            "resultCacheSize": "12Mi",
            "limits": {
                "pixels": 1,
                "steps": 2,
                "frames": 3,
                "videoPixels": 4,
                "audioSeconds": 11,
                "answers": 5,
                "promptLength": 6,
                "bodySize": "7Ki",
                "totalBodySize": "8Mi",
                "loras": 9,
                "loraSize": "10Mi",
            },
        }
    },
    "videos that are kept": {
        "spec.videos": {"storage": {"size": "20Gi"}, "jobs": 2, "maxAgeHours": 48, "maxSize": "1.5Gi"}
    },
    "videos in a database": {"spec.videos": {"databaseUrlSecretRef": {"name": "database"}, "jobs": 2}},
    "a thinker and a painter": {"spec.stages": [THINKER, READER]},
    "layers on two devices": {
        "spec.stages": [{**THINKER, "accelerator": {"count": 2}, "parallelism": {"pipeline": 2}}, READER]
    },
    "an encoder and a painter": {"spec.stages": [{**THINKER, "task": "encode"}, READER]},
    "a painter in the head that reads states": {
        "spec.stages": [{**THINKER, "task": "encode"}, READER],
        "spec.head": {"stage": "painter", "localReplicas": 1},
    },
    "a thinker of another model, in the head": {
        "spec.stages": [{**THINKER, "model": {"source": "hf://Qwen/Qwen3-0.6B", "revision": "v1"}}, READER],
        "spec.head": {"stage": "thinker", "localReplicas": 2},
    },
    "a language model alone": {"spec.model.source": "hf://Qwen/Qwen3-0.6B", "spec.stages": [THINKER], "spec.head": {}},
    "shortest times": {
        "spec.loadBalancing.heartbeatTimeoutSeconds": 3,
        "spec.stages.0.drain.timeoutSeconds": 1,
        "spec.stages.0.startupTimeoutSeconds": 10,
    },
}


def understood(process: Process, stages: Path) -> ServeConfig:
    """The worker's configuration from a process's command line and the stage config file."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.configure(parser)
    command, *flags = process.arguments
    assert command == "serve"
    flags = [f"--stage-config={stages}" if flag.startswith("--stage-config=") else flag for flag in flags]
    flags[0] = "hf://org/model" if flags[0].startswith("builtin://") else flags[0]
    return from_arguments(parser.parse_args(flags))


def test_the_worker_finds_images_where_pods_mount_them() -> None:
    assert str(model_source.IMAGE_FOLDER) == IMAGE_DIR


def test_what_is_said_of_the_api_and_of_videos_reaches_the_head(digits: dict[str, Any], tmp_path: Path) -> None:
    stages = tmp_path / "stages.json"

    def api_config(row: str) -> ApiConfig:
        topology = cluster_topology(parse(edited(digits, PIPELINES[row])))
        stages.write_text(topology.stage_config)
        head = understood(topology.head, stages).head
        assert head
        return head.api

    assert api_config("the example") == ApiConfig(), "what is not said is the worker's to choose"
    api, videos = api_config("an API for a web page"), api_config("videos that are kept").videos
    expected = Limits(
        pixels=1,
        steps=2,
        frames=3,
        video_pixels=4,
        audio_seconds=11,
        count=5,
        prompt=6,
        conversation=6,
        body=7 * 1024,
        bodies=8 * 2**20,
    )
    assert api.limits == expected
    assert all(getattr(expected, name) != value for name, value in vars(Limits()).items()), "no limit is left out"
    assert api.loras == LoraLimits(9, 10 * 2**20)
    assert (api.origins, api.playground) == (("https://example.org", "*"), False)
    assert api.certificate == Certificate("/etc/omnipipeline-tls/tls.crt", "/etc/omnipipeline-tls/tls.key")
    assert (videos.folder, videos.jobs, videos.seconds) == ("/videos", 2, 48 * 3600)
    assert videos.size == 1.5 * 2**30


@pytest.mark.parametrize("row", PIPELINES)
def test_the_worker_understands_every_command_line(
    digits: dict[str, Any], row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "IMAGE_FOLDER", tmp_path)
    pipeline = parse(edited(digits, PIPELINES[row]))
    stages = tmp_path / "stages.json"
    for topology in (cluster_topology(pipeline), local_topology(pipeline, 8000, consecutive_ports(), tmp_path)):
        stages.write_text(topology.stage_config)
        for process in topology.processes:
            config = understood(process, stages)
            assert config.port == process.http_port
            assert config.local_replicas == len(process.data_ports)
            assert config.drain_timeout == process.drain_seconds
            assert (config.head is not None) == process.is_head
            assert config.stage_id == process.stage_id
            assert config.secret_file
            if process.data_ports:
                assert config.replica_port == process.data_ports[0]
                assert (config.engine.kind, config.engine.task) == (
                    process.stage.engine,
                    process.stage.task or "generate",
                )
                assert config.engine.load == process.stage.load
                assert config.model.text in ("hf://org/model", pipeline.model_of(process.stage).source)
            if config.head:
                assert [stage.name for stage in config.head.stages] == [stage.name for stage in pipeline.spec.stages]
                for theirs, ours in zip(config.head.stages, pipeline.spec.stages, strict=True):
                    assert (theirs.engine, theirs.task) == (ours.engine, ours.task or "generate")
                    assert theirs.input == (ours.input or "text")
                    assert [lora.name for lora in theirs.loras] == [lora.name for lora in ours.loras]
                    own = "hf://org/model" if ours.model is None else ours.model.source
                    assert config.head.models[theirs.id].text in (own, pipeline.spec.model.source)
                assert config.served_model_name == "digits"


def test_every_flag_of_the_worker_is_known_to_the_object() -> None:
    """A new flag of the worker either gets a field, or may be in extraArgs."""
    parser = argparse.ArgumentParser(add_help=False)
    serve.configure(parser)
    actions = [action for action in parser._actions if action.option_strings]
    flags = {flag for action in actions for flag in action.option_strings}
    assert flags == {*EXTRA, *FIELDS, *OPERATORS}
    assert not {flag for action in actions for flag in action.option_strings if action.nargs in (0, "?")} & {*EXTRA}
    assert set(FIELDS).isdisjoint({*EXTRA, *OPERATORS})


@pytest.mark.parametrize("row", PIPELINES)
def test_no_flag_that_the_operator_sets_may_be_in_extra_args(digits: dict[str, Any], row: str) -> None:
    for process in cluster_topology(parse(edited(digits, PIPELINES[row]))).processes:
        flags = {argument.partition("=")[0] for argument in process.arguments if argument.startswith("--")}
        assert flags <= {*FIELDS, *OPERATORS}
