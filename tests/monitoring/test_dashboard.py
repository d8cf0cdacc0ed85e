"""The dashboard as Grafana reads it: by Grafana's own types, and without a panel over another."""

import json
import subprocess
import sys
from itertools import combinations
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from .test_rules import CHART, ROOT, monitoring

FILE = CHART / "files/dashboard.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_it_is_what_the_script_says() -> None:
    command = [sys.executable, str(ROOT / "hack/dashboard.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_grafana_knows_all_of_it() -> None:
    """What its types do not know would be lost."""
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, read) == []


def lost(ours: Any, read: Any, at: str = "") -> list[str]:
    """Where `read` lacks, or has otherwise, what is in `ours`."""
    if isinstance(ours, dict) and isinstance(read, dict):
        return [place for key, below in ours.items() for place in lost(below, read.get(key), f"{at}.{key}")]
    if isinstance(ours, list) and isinstance(read, list) and len(ours) == len(read):
        return [
            place for index, pair in enumerate(zip(ours, read, strict=True)) for place in lost(*pair, f"{at}[{index}]")
        ]
    return [] if ours == read else [at]


def test_there_is_a_row_for_each_of_those_who_look() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Users", "Pipeline", "Routing", "Operator",
    ]  # fmt: skip


def test_one_can_choose_the_source_the_namespace_and_the_pipeline() -> None:
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "namespace", "pipeline"]
    used = {json.dumps(target["datasource"]) for panel in PANELS for target in panel["targets"]}
    assert used == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_ids_differ_and_no_panel_is_over_another() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_the_chart_gives_it_as_it_is() -> None:
    (made,) = monitoring(dashboard={"enabled": True, "annotations": {"grafana_folder": "Models"}}).values()
    assert json.loads(made["data"]["omnipipeline.json"]) == DASHBOARD
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Models"}
