"""Which cgroups a machine has, and what is said of one whose controllers cannot be had."""

from pathlib import Path

import pytest
from hack.cluster import sandbox
from hack.cluster.shell import ClusterError


def test_a_v2_tree_beside_controllers_in_v1_is_cgroup_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CGROUPS", tmp_path)
    for name in ("memory", "unified"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
    (tmp_path / "unified/cgroup.controllers").touch()
    assert sandbox.has_cgroup_v1()
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert not sandbox.has_cgroup_v1()


def test_missing_controllers_of_cgroup_v2_are_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / "cgroup.subtree_control").touch()
    with pytest.raises(ClusterError, match="needs the cgroup controllers cpu, cpuset, memory, pids"):
        sandbox._enable_controllers(tmp_path)
