"""The command `omni up`: runs a manifest as local processes, until Ctrl-C.

What is for people goes to stderr; stdout carries one line, `API: http://…`, so that a script can wait for it.
"""

import argparse
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from omni_operator.client import local_runs
from omni_operator.controller.pipeline_secret import new_secret
from omni_operator.crd import manifest_file
from omni_operator.crd.pod_template import CONTAINER
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.local.backend import LocalBackend
from omni_operator.local.errors import Interrupted, LocalFailure
from omni_operator.local.gpus import visible_gpus
from omni_operator.local.local_process import LocalProcess
from omni_operator.local.ports import FreePorts, require_free_port
from omni_operator.planning.topology.files import KEYS_FILE, STAGE_CONFIG_FILE
from omni_operator.planning.topology.local import local_topology
from omni_operator.planning.topology.model_sources import PVC
from omni_operator.planning.topology.records import LOOPBACK, Topology

BUILTIN = "builtin://"
HELP = """Run an OmniPipeline manifest on this machine, as local processes.

Starts the head and the replicas of FILE, waits until they serve, prints `API: http://127.0.0.1:PORT`, and runs until
Ctrl-C, which lets running requests finish and stops everything that was started; a second Ctrl-C stops at once.

  omni up examples/digits.yaml
  omni generate "a red three on black background" -o three.png     (in another terminal)

Exit codes: 0 stopped by Ctrl-C or SIGTERM; 1 something failed; 2 FILE or an option cannot be used."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="YAML file with one OmniPipeline")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port of the API; 0 takes any free one (default: 8000)"
    )
    parser.add_argument(
        "--timeout", type="seconds", metavar="SECONDS", help="time to become ready (default: the stages' own)"
    )


def run(args: argparse.Namespace) -> int:
    pipeline = manifest_file.load(args.file)
    require_runnable_here(pipeline)
    if args.port:
        require_free_port(args.port)
    free_ports = FreePorts(reserved=args.port)
    folder = local_runs.new_folder(pipeline.name)
    plan = local_topology(pipeline, args.port or free_ports(1), free_ports, folder)
    write_files(folder, plan)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    models = dict.fromkeys(pipeline.model_of(stage).source for stage in pipeline.spec.stages)
    console.print(f"pipeline {pipeline.name}: {', '.join(models)}, {described(plan)}; logs in {folder}")
    for note in notes(pipeline, plan):
        console.print(f"note: {note}")
    display = Display(console)
    backend = LocalBackend(plan, folder, environment=environment(pipeline), report=display.report)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: backend.interrupt())
    timeout = args.timeout or 30.0 + max(process.startup_seconds for process in plan.processes)
    succeeded = False
    try:
        with display:
            backend.start()
            backend.wait_ready(timeout)
        serve(backend, plan, folder, console)
    except Interrupted:
        succeeded = True
        console.print("stopping: running requests may finish; Ctrl-C again stops at once")
    finally:
        backend.stop()
        if succeeded:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def serve(backend: LocalBackend, plan: Topology, folder: Path, console: Console) -> None:
    """Tell where the API is, and watch over the processes until interrupted."""
    url = f"http://{LOOPBACK}:{plan.head.http_port}"
    local_runs.announce(folder, local_runs.Run(os.getpid(), plan.pipeline, url))
    print(f"API: {url}", flush=True)
    file = "" if plan.stages[-1].is_autoregressive else " -o picture.png"
    console.print(f'try it: omni generate "{suggestion(plan)}"{file}')
    console.print(f"or open {url} in a browser")
    console.print("Ctrl-C stops it")
    backend.watch()


def suggestion(plan: Topology) -> str:
    """Something that the model may know how to draw or answer."""
    if not plan.head.arguments[1].startswith(BUILTIN):
        return "a fox in the snow"
    return "two plus five, in blue" if plan.stages[0].is_autoregressive else "a red three on black background"


class Display:
    """Progress for people: a line that moves for each process on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._is_live = False

    def __enter__(self) -> "Display":
        self._is_live = self._console.is_terminal
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._is_live = False

    def report(self, process: LocalProcess, state: str) -> None:
        if not self._is_live:
            self._console.print(f"{process.name}: {state}", markup=False)
            return
        if process.name not in self._tasks:
            self._tasks[process.name] = self._progress.add_task(process.name, total=1, state=state)
        self._progress.update(self._tasks[process.name], state=state, completed=int(process.is_ready))


def write_files(folder: Path, plan: Topology) -> None:
    """What the processes read: the stages, and a secret of this run's own that only this user can read."""
    (folder / STAGE_CONFIG_FILE).write_text(plan.stage_config)
    keys = os.open(folder / KEYS_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(keys, "w") as file:
        file.write(new_secret())


def require_runnable_here(pipeline: OmniPipeline) -> None:
    """Raise BadDocument for what only a cluster has."""
    for path, model in pipeline.models.items():
        source = model.source
        if source.startswith(PVC):
            raise manifest_file.BadDocument(
                f"{path}.source: {source} is a volume of a cluster; give `omni up` a folder of this machine, builtin://"
                " or hf://"
            )
        if source.startswith("/") and not Path(source).is_dir():
            raise LocalFailure(f"{path}.source: there is no folder {source} on this machine")


def described(plan: Topology) -> str:
    head = "a head" + (f" with {len(plan.head.data_ports)} local replica(s)" if plan.head.data_ports else "")
    counts: dict[str, int] = {}
    for process in plan.replicas:
        counts[process.stage.name] = counts.get(process.stage.name, 0) + 1
    return ", ".join([head, *(f"{count} × {stage}" for stage, count in counts.items())])


def notes(pipeline: OmniPipeline, plan: Topology) -> list[str]:
    """What of the manifest means something else here than in a cluster."""
    found = []
    wanted, available = sum(process.devices for process in plan.processes), len(visible_gpus())
    if wanted and not available:
        found.append("there is no GPU on this machine, so the replicas run on the CPU")
    elif wanted > available:
        found.append(f"the replicas ask for {wanted} GPUs and this machine has {available}, so they share")
    if empty := plan.stages_without_replicas:
        stages = "stage" if len(empty) == 1 else "stages"
        found.append(f"no replica is asked for of {stages} {', '.join(empty)}, so requests will wait")
    if any(template for template in (pipeline.spec.head.template, *(stage.template for stage in pipeline.spec.stages))):
        found.append("of the templates only plain env values of the container omni are used; the rest is a cluster's")
    if pipeline.spec.api_key_secret_ref:
        found.append("every client of this machine may come, since there are no Secrets with keys here")
    if any(model.token_secret_ref for model in pipeline.models.values()):
        found.append("the hub token is taken from HF_TOKEN here, since there are no Secrets")
    return found


def environment(pipeline: OmniPipeline) -> Mapping[str, str]:
    """Plain values of the environment that the templates give to our container."""
    templates: list[dict[str, Any]] = [stage.template for stage in pipeline.spec.stages] + [pipeline.spec.head.template]
    return {
        entry["name"]: str(entry["value"])
        for template in templates
        for container in (template.get("spec") or {}).get("containers") or []
        if container.get("name") == CONTAINER
        for entry in container.get("env") or []
        if "value" in entry
    }


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port; give a number from 1 to 65535, or 0 for any free one"
        )
    return int(text)
