"""The dashboards: every query reads what is served, and the JSON has the shape that Grafana imports."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from app.console.monitoring.dashboards import DASHBOARDS
from ops.monitoring.dashboards import PLATFORM_DASHBOARDS, Dashboard, dashboard_files, grafana_json
from ops.monitoring.model import unknown_metrics
from tests.alert_cases import RULES

ALL = (*PLATFORM_DASHBOARDS, *DASHBOARDS)

TARGET = {
    "type": "object",
    "required": ["expr", "refId"],
    "properties": {"expr": {"type": "string", "minLength": 1}, "refId": {"pattern": "^[A-Z]$"}},
}
PANEL = {
    "type": "object",
    "required": ["title", "type", "gridPos", "datasource", "targets", "fieldConfig"],
    "properties": {
        "type": {"enum": ["timeseries", "stat", "table"]},
        "gridPos": {
            "type": "object",
            "required": ["x", "y", "w", "h"],
            "properties": {"x": {"minimum": 0, "maximum": 23}, "w": {"minimum": 1, "maximum": 24}},
        },
        "datasource": {
            "type": "object",
            "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
            "required": ["type", "uid"],
        },
        "targets": {"type": "array", "minItems": 1, "items": TARGET},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "panels", "schemaVersion", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-z-]{1,40}$"},
        "panels": {"type": "array", "minItems": 1, "items": PANEL},
        "schemaVersion": {"type": "integer", "minimum": 30},
        "templating": {
            "properties": {
                "list": {"contains": {"properties": {"name": {"const": "datasource"}}, "required": ["name"]}}
            },
            "required": ["list"],
        },
    },
}
"""What Grafana's importer reads of a dashboard."""


@pytest.mark.parametrize("dashboard", ALL, ids=lambda each: each.name)
def test_every_query_of_a_dashboard_reads_what_is_served(dashboard: Dashboard) -> None:
    assert unknown_metrics(RULES, dashboard.queries) == frozenset()


@pytest.mark.parametrize("dashboard", ALL, ids=lambda each: each.name)
def test_the_json_of_a_dashboard_has_its_shape_and_no_panel_hides_another(dashboard: Dashboard) -> None:
    content = json.loads(grafana_json(dashboard))
    jsonschema.validate(content, SCHEMA)
    assert [panel["title"] for panel in content["panels"]] == [panel.title for panel in dashboard.panels]
    cells = [cell for panel in content["panels"] for cell in _cells(panel["gridPos"])]
    assert len(cells) == len(set(cells))


def _cells(place: dict[str, Any]) -> list[tuple[int, int]]:
    return [
        (x, y)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]


def test_there_is_a_dashboard_for_each_area_and_its_text_is_the_same_each_time() -> None:
    files = dashboard_files(ALL)
    names = [
        "board",
        "databases",
        "flow",
        "gateway",
        "mes-storage",
        "messages",
        "orders",
        "pricing",
        "replicas",
        "shards",
        "trouble-now",
    ]
    assert sorted(files) == [f"dashboards/{name}.json" for name in names]
    assert files == dashboard_files(ALL)
