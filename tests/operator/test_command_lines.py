"""The contract between the planes: every command line that the topology builds is one that the worker understands.

The only test of the control plane that imports the worker, which is what it is for.
"""

import argparse
from pathlib import Path
from typing import Any

import pytest

from omni_operator.spec import parse
from omni_operator.topology import Process, in_cluster, on_this_machine
from omni_worker import serve
from omni_worker.config import ServeConfig, from_arguments
from tests.operator.edits import edited
from tests.operator.test_topology import consecutive_ports

PIPELINES: dict[str, dict[str, Any]] = {
    "the example": {},
    "replicas in the head": {"spec.head.localReplicas": 2},
    "request mode, fixed batch": {"spec.stages.0.scheduling": {"mode": "request", "maxNumSeqs": 4}},
    "several processes a replica": {"spec.stages.0.accelerator.count": 2, "spec.stages.0.parallelism.cfg": 2},
    "several replicas a pod": {"spec.stages.0.localReplicas": 3},
    "a model on the hub": {"spec.model": {"source": "hf://Qwen/Qwen-Image", "revision": "refs/pr/1"}},
    "every policy: random": {"spec.loadBalancing.policy": "random"},
    "every policy: round-robin": {"spec.loadBalancing.policy": "round-robin"},
    "every policy: least-queue-length": {"spec.loadBalancing.policy": "least-queue-length"},
    "another order": {"spec.stages.0.scheduling.policy": "srpt"},
    "shortest times": {
        "spec.loadBalancing.heartbeatTimeoutSeconds": 3,
        "spec.stages.0.drain.timeoutSeconds": 1,
        "spec.stages.0.startupTimeoutSeconds": 10,
    },
}


def understood(process: Process, stages: Path) -> ServeConfig:
    """What the worker makes of a process's command line, with the stage config at hand."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.configure(parser)
    command, *flags = process.arguments
    assert command == "serve"
    flags = [f"--stage-config={stages}" if flag.startswith("--stage-config=") else flag for flag in flags]
    flags[0] = "hf://org/model" if flags[0].startswith("builtin://") else flags[0]
    return from_arguments(parser.parse_args(flags))


@pytest.mark.parametrize("row", PIPELINES)
def test_the_worker_understands_every_command_line(digits: dict[str, Any], row: str, tmp_path: Path) -> None:
    pipeline = parse(edited(digits, PIPELINES[row]))
    stages = tmp_path / "stages.json"
    for topology in (in_cluster(pipeline), on_this_machine(pipeline, 8000, consecutive_ports(), tmp_path)):
        stages.write_text(topology.stage_config)
        for process in topology.processes:
            config = understood(process, stages)
            assert config.port == process.http_port
            assert config.local_replicas == len(process.data_ports)
            assert config.drain_timeout == process.drain_seconds
            assert (config.head is not None) == process.is_head
            if process.data_ports:
                assert config.replica_port == process.data_ports[0]
            if config.head:
                assert [stage.name for stage in config.head.stages] == ["painter"]
                assert config.served_model_name == "digits"
