"""The environment of child processes."""

import os
import subprocess
import sys

from omni_worker.parallel.child_process import safe_path


def test_a_child_imports_nothing_from_the_folder_where_it_runs(tmp_path):
    for name in ("sentencepiece", "evil_module", "accelerate"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the code of a model ran')")
    package = tmp_path / "installed"
    package.mkdir()
    (package / "child.py").write_text(
        "from importlib.util import find_spec as find\n"
        "print([find(name) and find(name).origin for name in ('evil_module', 'child')])"
    )
    environment = {**os.environ, **safe_path({"PYTHONPATH": f":.:{package}::relative"})}
    ran = subprocess.run(
        [sys.executable, "-m", "child"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == f"[None, '{package / 'child.py'}']", ran.stderr


def test_relative_and_empty_folders_are_left_out():
    assert safe_path({"PYTHONPATH": "/a::b:./c:/d"}) == {"PYTHONSAFEPATH": "1", "PYTHONPATH": "/a:/d"}
    assert safe_path({}) == {"PYTHONSAFEPATH": "1", "PYTHONPATH": ""}
