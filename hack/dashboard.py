"""Writes the Grafana dashboard of the chart: rows of panels, each a line of what it shows below.

python hack/dashboard.py           write it
python hack/dashboard.py --check   fail where the committed file is not what this says
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
FILE = PROJECT / "charts/omnipipeline/files/dashboard.json"
SCHEMA_VERSION = 42  # of Grafana 12
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OURS = 'namespace=~"$namespace", pipeline=~"$pipeline"'
SEEN = 'pipeline_namespace=~"$namespace", pipeline=~"$pipeline"'  # as the operator calls them
OVER = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """Lines over time: `lines` are expressions by their legend."""

    title: str
    unit: str
    lines: dict[str, str]
    says: str = ""
    stacked: bool = False


def rate(name: str, by: str = "", more: str = "") -> str:
    """How fast a counter grows, summed."""
    return f"sum{f' by ({by})' if by else ''} (rate({name}{{{OURS}{more}}}{OVER}))"


def quantile(share: float, name: str, by: str = "", labels: str = OURS) -> str:
    """A quantile of a histogram."""
    by = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({by}) (rate({name}_bucket{{{labels}}}{OVER})))"


def quantiles(name: str) -> dict[str, str]:
    return {f"p{share * 100:g}": quantile(share, name) for share in (0.5, 0.95, 0.99)}


def gauge(name: str, by: str, how: str = "sum") -> str:
    return f"{how} by ({by}) ({name}{{{OURS}}})"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Users": (
        Panel("Requests", "reqps", {"{{outcome}}": rate("omni_requests_total", "outcome")}, stacked=True),
        Panel("Latency", "s", quantiles("omni_request_seconds"), "Of completed requests, from admission to the end."),
        Panel(
            "Errors",
            "percentunit",
            {
                "{{outcome}}": rate("omni_requests_total", "outcome", ', outcome!="completed"')
                + f" / ignoring (outcome) group_left () {rate('omni_requests_total')}"
            },
            "Of all that ended. busy: the queues were full; invalid: the request was wrong; aborted: the client left.",
        ),
        Panel("Pictures", "iops", {"{{stage}}": rate("omni_stage_images_total", "stage")}, "Made in a second."),
        Panel("Tokens", "iops", {"{{stage}}": rate("omni_stage_tokens_total", "stage")}, "Written in a second."),
        Panel("Requests under way", "short", {"{{stage}}": gauge("omni_replica_in_flight", "stage")}),
    ),
    "Pipeline": (
        Panel(
            "Stage ready",
            "bool_yes_no",
            {"{{pipeline}} {{stage}}": gauge("omni_stage_ready", "pipeline, stage", "min")},
        ),
        Panel(
            "Replicas by state",
            "short",
            {"{{stage}} {{state}}": gauge("omni_replica_state", "stage, state") + " > 0"},
            stacked=True,
        ),
        Panel("Time at a stage, p95", "s", {"{{stage}}": quantile(0.95, "omni_stage_seconds", "stage")}),
        Panel("Queue length", "short", {"{{stage}}": gauge("omni_replica_queue_length", "stage")}),
        Panel(
            "Running",
            "short",
            {
                "{{stage}}": gauge("omni_replica_running", "stage"),
                "{{stage}}: capacity": gauge("omni_replica_capacity", "stage"),
            },
        ),
        Panel(
            "Predicted wait",
            "s",
            {"{{stage}}": gauge("omni_engine_predicted_wait_seconds", "stage", "min")},
            "Until a request that comes now begins, at the replica with the shortest queue.",
        ),
        Panel(
            "Batch size",
            "short",
            {
                "{{stage}} {{phase}}": rate("omni_engine_batch_size_sum", "stage, phase")
                + f" / {rate('omni_engine_batch_size_count', 'stage, phase')}"
            },
            "Model calls that shared a forward pass, in the mean.",
        ),
        Panel("Step time", "s", {"{{stage}}": gauge("omni_replica_step_seconds", "stage", "avg")}),
        Panel(
            "Time by phase",
            "percentunit",
            {"{{stage}} {{phase}}": rate("omni_engine_batch_seconds_sum", "stage, phase")},
            "Seconds of model calls in a second, over all replicas of the stage.",
            stacked=True,
        ),
    ),
    "Routing": (
        Panel("Repeated runs", "ops", {"{{stage}}": rate("omni_request_retries_total", "stage")}),
        Panel(
            "Lost runs, by why", "ops", {"{{stage}} {{reason}}": rate("omni_request_lost_runs_total", "stage, reason")}
        ),
        Panel(
            "Replicas that began to drain",
            "short",
            {"{{stage}}": f"sum by (stage) (increase(omni_stage_drains_total{{{OURS}}}{OVER}))"},
        ),
        Panel(
            "Wait for a replica, p95",
            "s",
            {"{{stage}}": quantile(0.95, "omni_stage_dispatch_wait_seconds", "stage")},
            "At the head, until one is up that may take the request.",
        ),
        Panel(
            "Heartbeat age",
            "s",
            {"{{stage}}-{{replica}}": gauge("omni_replica_heartbeat_age_seconds", "stage, replica", "max")},
        ),
        Panel(
            "In flight by replica",
            "short",
            {"{{stage}}-{{replica}}": gauge("omni_replica_in_flight", "stage, replica")},
        ),
        Panel(
            "Replicas started again",
            "short",
            {"{{stage}}": f"sum by (stage) (increase(omni_replica_restarts_total{{{OURS}}}{OVER}))"},
        ),
        Panel(
            "Coordinator's silence",
            "s",
            {"{{pipeline}}": gauge("omni_membership_silence_seconds", "pipeline", "max")},
        ),
        Panel(
            "Turned away from the fleet",
            "ops",
            {
                "registrations": rate("omni_membership_refused_total"),
                "connections": rate("omni_membership_rejected_total"),
                "malformed": rate("omni_membership_malformed_total"),
            },
        ),
    ),
    "Operator": (
        Panel(
            "Pods of stages",
            "short",
            {
                "{{pipeline}} {{stage}}: {{kind}}": "max by (pipeline, stage, kind) "
                f"(omni_operator_stage_pods{{{SEEN}}} and on (instance) (omni_operator_leading == 1))"
            },
        ),
        Panel(
            "Pipelines ready",
            "bool_yes_no",
            {
                "{{pipeline_namespace}}/{{pipeline}}": "max by (pipeline_namespace, pipeline) "
                f"(omni_operator_pipeline_ready{{{SEEN}}} and on (instance) (omni_operator_leading == 1))"
            },
        ),
        Panel("Passes", "ops", {"{{result}}": f"sum by (result) (rate(omni_operator_reconcile_seconds_count{OVER}))"}),
        Panel(
            "Time of a pass",
            "s",
            {
                f"p{share * 100:g}": quantile(share, "omni_operator_reconcile_seconds", labels="")
                for share in (0.5, 0.95, 0.99)
            },
        ),
        Panel(
            "Queue",
            "short",
            {"waiting": "sum (omni_operator_queue_depth)", "oldest, s": "max (omni_operator_queue_oldest_seconds)"},
        ),
        Panel(
            "Calls of the API server",
            "ops",
            {"{{verb}} {{code}}": f"sum by (verb, code) (rate(omni_operator_api_calls_total{OVER}))"},
        ),
        Panel("Leading", "bool_yes_no", {"{{pod}}": "max by (pod) (omni_operator_leading)"}),
        Panel("Silence of watches", "s", {"{{pod}}": "max by (pod) (omni_operator_watch_silence_seconds)"}),
        Panel("Time to Ready, p95", "s", {"p95": quantile(0.95, "omni_operator_pipeline_ready_seconds", labels="")}),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = json.dumps(dashboard(), indent=1) + "\n"
    if parser.parse_args().check and FILE.read_text() != text:
        print(f"{FILE.relative_to(PROJECT)} is not what hack/dashboard.py says; run `make reference`", file=sys.stderr)
        return 1
    FILE.write_text(text)
    return 0


def dashboard() -> dict[str, Any]:
    return {
        "uid": "omnipipeline",
        "title": "OmniPipeline",
        "description": "Pipelines, from what users see to what the operator does.",
        "tags": ["omnipipeline"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source(), variable("namespace", ""), variable("pipeline", 'namespace=~"$namespace"')]},
        "annotations": {"list": []},
        "panels": list(numbered()),
    }


def source() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1}


def variable(label: str, within: str) -> dict[str, Any]:
    """One to choose values of a label by; all of them match where there is no such label too."""
    query = f"label_values(omni_requests_total{{{within}}}, {label})"
    return {
        "type": "query",
        "name": label,
        "label": label.capitalize(),
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def numbered() -> Iterator[dict[str, Any]]:
    for number, panel in enumerate(placed(), 1):
        yield {"id": number, **panel}


def placed() -> Iterator[dict[str, Any]]:
    """The rows, and the panels of each in lines of three."""
    y = 0
    for title, panels in ROWS.items():
        yield {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": grid(0, y, COLUMNS, 1)}
        y += 1
        for index, panel in enumerate(panels):
            x = index * WIDTH % COLUMNS
            yield {**drawn(panel), "gridPos": grid(x, y, WIDTH, HEIGHT)}
            if x + WIDTH == COLUMNS or index == len(panels) - 1:
                y += HEIGHT


def grid(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"h": height, "w": width, "x": x, "y": y}


def drawn(panel: Panel) -> dict[str, Any]:
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if panel.stacked else 0, "showPoints": "never"}
    custom["stacking"] = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(panel.lines.items())
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
