"""The command `omni up`: runs a manifest as local processes, until Ctrl-C.

Messages for people go to stderr. stdout gets a single line, `API: http://…`, so that a script can wait for it.
"""

import argparse
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from omni_operator.client import local_runs
from omni_operator.client.local_runs import LocalRun
from omni_operator.commands.terminal.startup_display import StartupDisplay
from omni_operator.controller.pipeline_secret import new_secret
from omni_operator.crd import manifest_file
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.local.backend import LocalBackend
from omni_operator.local.errors import Interrupted
from omni_operator.local.gpus import visible_gpus
from omni_operator.local.local_manifest import (
    differences_from_cluster,
    require_local_models,
    take_endpoint_keys,
    template_environment,
)
from omni_operator.local.ports import FreePorts, require_free_port
from omni_operator.planning.topology.files import KEYS_FILE, STAGE_CONFIG_FILE
from omni_operator.planning.topology.local import local_topology
from omni_operator.planning.topology.records import LOOPBACK, Topology

BUILTIN = "builtin://"
READY_MARGIN_SECONDS = 30.0
HELP = """Run an OmniPipeline manifest on this machine, as local processes.

Starts the head and the replicas of FILE, waits until they serve, prints `API: http://127.0.0.1:PORT`, and runs until
Ctrl-C, which lets running requests finish and stops everything that was started; a second Ctrl-C stops at once.

  omni up examples/digits.yaml
  omni generate "a red three on black background" -o three.png     (in another terminal)

Exit codes: 0 stopped by Ctrl-C or SIGTERM; 1 something failed; 2 FILE or an option cannot be used."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("file", metavar="FILE", help="YAML file with one OmniPipeline")
    parser.add_argument(
        "--port", type=_port_or_zero, default=8000, help="port of the API; 0 takes any free one (default: 8000)"
    )
    parser.add_argument(
        "--timeout", type="seconds", metavar="SECONDS", help="time to become ready (default: the stages' own)"
    )


def _port_or_zero(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port; give a number from 1 to 65535, or 0 for any free one"
        )
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the pipeline until it is interrupted. Deletes the logs after a clean end, and keeps them after a failure."""
    pipeline = manifest_file.load(args.file)
    require_local_models(pipeline)
    endpoint_keys = take_endpoint_keys(pipeline, os.environ)
    if args.port:
        require_free_port(args.port)
    folder = local_runs.new_run_folder(pipeline.name)
    topology = plan_topology(pipeline, args.port, folder)
    write_process_files(folder, topology, endpoint_keys)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    print_plan(console, pipeline, topology, folder)
    display = StartupDisplay(console)
    backend = LocalBackend(topology, folder, environment=template_environment(pipeline), report=display.report)
    interrupt_on_signals(backend)
    is_interrupted = False
    try:
        with display:
            backend.start()
            backend.wait_ready(args.timeout or default_timeout(topology))
        announce_api(topology, folder, console)
        backend.watch()
    except Interrupted:
        is_interrupted = True
        console.print("stopping: running requests may finish; Ctrl-C again stops at once")
    finally:
        backend.stop()
        if is_interrupted:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def plan_topology(pipeline: OmniPipeline, port: int, folder: Path) -> Topology:
    """The processes of the pipeline, with free ports; `port` is that of the API, 0 for any free one."""
    free_ports = FreePorts(reserved=port)
    return local_topology(pipeline, port or free_ports(1), free_ports, folder)


def write_process_files(folder: Path, topology: Topology, endpoint_keys: Mapping[str, str]) -> None:
    """Write the files that the processes read: the stages, and those that only this user can read: a new secret, and
    the keys of servers that are stages, by the names of their files.
    """
    (folder / STAGE_CONFIG_FILE).write_text(topology.stage_config)
    for name, content in {KEYS_FILE: new_secret(), **endpoint_keys}.items():
        secret_file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(secret_file, "w") as file:
            file.write(content)


def print_plan(console: Console, pipeline: OmniPipeline, topology: Topology, folder: Path) -> None:
    """Print what starts, and what differs from a cluster."""
    models = dict.fromkeys(
        f"{stage.endpoint.model} at {stage.endpoint.url}" if stage.endpoint else pipeline.model_of(stage).source
        for stage in pipeline.spec.stages
    )
    console.print(f"pipeline {pipeline.name}: {', '.join(models)}, {process_summary(topology)}; logs in {folder}")
    for difference in differences_from_cluster(pipeline, topology, len(visible_gpus())):
        console.print(f"note: {difference}")


def process_summary(topology: Topology) -> str:
    """The processes in words: the head with its local replicas, and the number of replicas of each stage."""
    local_replicas = len(topology.head.data_ports)
    head = "a head" + (f" with {local_replicas} local replica(s)" if local_replicas else "")
    counts: dict[str, int] = {}
    for process in topology.replicas:
        counts[process.stage.name] = counts.get(process.stage.name, 0) + 1
    return ", ".join([head, *(f"{count} × {stage}" for stage, count in counts.items())])


def interrupt_on_signals(backend: LocalBackend) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: backend.interrupt())


def default_timeout(topology: Topology) -> float:
    """Seconds that the slowest process may take to start, by its stage's startup timeout."""
    return READY_MARGIN_SECONDS + max(process.startup_seconds for process in topology.processes)


def announce_api(topology: Topology, folder: Path, console: Console) -> None:
    """Publish the address of the API for other commands and for scripts, and print what to try."""
    url = f"http://{LOOPBACK}:{topology.head.http_port}"
    local_runs.publish(folder, LocalRun(os.getpid(), topology.pipeline, url))
    print(f"API: {url}", flush=True)
    output_flag = " -o picture.png" if topology.stages[-1].draws else ""
    console.print(f'try it: omni generate "{example_prompt(topology)}"{output_flag}')
    console.print(f"or open {url} in a browser")
    console.print("Ctrl-C stops it")


def example_prompt(topology: Topology) -> str:
    """A prompt that the model can probably handle."""
    model = topology.head.arguments[1]
    if not model.startswith(BUILTIN):
        return "a fox in the snow"
    return "a red three on black background" if topology.stages[0].draws else "two plus five, in blue"
