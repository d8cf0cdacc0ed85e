"""Heads with local replicas, and the tiny pipelines that they serve."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import omni_worker.models

from ..pipelines.survey import specimens
from ..serving import Process, eventually, free_ports

DIGITS = Path(omni_worker.models.__file__).parent / "digits"


@contextlib.contextmanager
def head(model: str | Path = "builtin://digits", *flags: str, replicas: int = 1) -> Iterator[Process]:
    """A head that serves `model` as `tiny`. If it has replicas, it is ready."""
    api, master, router, pub, data = free_ports(5)
    process = Process(
        str(model), "--host", "127.0.0.1", "--port", str(api), "--omni-master-address", "127.0.0.1",
        "--omni-master-port", str(master), "--omni-coordinator-port", str(router), "--omni-replica-port", str(data),
        "--omni-coordinator-pub-port", str(pub), "--omni-dp-size-local", str(replicas), "--served-model-name", "tiny",
        "--drain-timeout", "5", *flags, port=api,
    )  # fmt: skip
    try:
        eventually(lambda: process.is_ready() or not replicas, "the head")
        yield process
    finally:
        process.close()


def digits_as(pipeline_class: str, folder: Path) -> Path:
    """A copy of the digits model in `folder` that loads as another pipeline class."""
    shutil.copytree(DIGITS, folder, dirs_exist_ok=True)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline_class}))
    return folder


def save_specimen(name: str, folder: Path, **defaults: float) -> Path:
    """A tiny pipeline with random weights in `folder`, with these serving defaults."""
    warnings.simplefilter("ignore")
    (specimen,) = (specimen for specimen in specimens() if specimen.name == name)
    specimen.build().save_pretrained(folder)
    (folder / "omni.json").write_text(json.dumps({"defaults": defaults}))
    return folder
