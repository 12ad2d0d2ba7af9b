"""Boards as the JSON that Grafana loads, by Grafana's own builders.

Flow: Board -> [dashboard_of] -> text of deploy/grafana/dashboards/<uid>.json.

Invariants
  DG1  Equal boards give equal text: panels are numbered in order, and keys are sorted.
  DG2  Everything asks the data source with the uid `megaphone-prometheus`, which
       deploy/grafana/provisioning makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias

from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import VisibilityMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.panel import Board, Panel, Shape

DATA_SOURCE = "megaphone-prometheus"
PanelBuilder: TypeAlias = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel
_HEIGHT = {Shape.LINES: 8, Shape.NUMBER: 4, Shape.HEATMAP: 8, Shape.TABLE: 8}
#: Name, what it is called, and where its values come from.
_VARIABLES = (
    ("operator", "Operator", "megaphone_dataflow_frontier_lag_seconds", "operator"),
    ("worker", "Worker", "megaphone_migration_owned_bins", "slot"),
)
_PLAN_EVENTS = (
    ("Plan begins", "megaphone_migration_start_timestamp_seconds", "blue"),
    ("Plan ends", "megaphone_migration_end_timestamp_seconds", "green"),
)


def dashboard_of(board: Board) -> str:
    """The JSON of a board, as Grafana's provisioning reads it."""
    builder = (
        Dashboard(board.title)
        .uid(board.uid)
        .description(board.help)
        .tags(["megaphone"])
        .time("now-15m", "now")
        .refresh("5s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            DashboardLink("Megaphone")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["megaphone"])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
    )
    for variable in _variables():
        builder.with_variable(variable)
    number = 0
    for row in board.rows:
        number += 1
        builder.with_row(Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            builder.with_panel(_panel(panel).id(number))
    made = json.loads(JSONEncoder(sort_keys=True).encode(builder.build()))
    asked = json.dumps(made["panels"])
    for variable in made["templating"]["list"]:
        # What nothing here asks for would be a knob without effect; links between boards keep it.
        used = f"${variable['name']}" in asked
        hidden = models.VariableHide.DONT_HIDE if used else models.VariableHide.HIDE_VARIABLE
        variable["hide"] = hidden.value
    made["annotations"] = {"list": [_annotation(*event) for event in _PLAN_EVENTS]}
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def _source() -> models.DataSourceRef:
    return models.DataSourceRef(type_val="prometheus", uid=DATA_SOURCE)


def _variables() -> Iterator[Builder[models.VariableModel]]:
    yield _variable("app", "App", "label_values(megaphone_process_build_info, app)")
    for name, label, metric, values in _VARIABLES:
        query = f'label_values({metric}{{app="$app"}}, {values})'
        # All of them is a pattern, so that what has no such label is shown, too.
        variable = _variable(name, label, query).multi(True).include_all(True).all_value(".*")
        yield variable.current(models.VariableOption(text=["All"], value=["$__all"], selected=True))


def _variable(name: str, label: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(_source())
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _panel(panel: Panel) -> PanelBuilder:
    made = _builder(panel)
    made.title(panel.title).description(panel.help).datasource(_source())
    made.span(panel.width).height(_HEIGHT[panel.shape])
    if panel.shape is not Shape.HEATMAP:
        made.unit(panel.unit.value)
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(query.text)
        if query.legend:
            target.legend_format(query.legend)
        if panel.shape is Shape.HEATMAP:
            target.format(PromQueryFormat.HEATMAP)
        elif panel.shape is Shape.TABLE:
            target.format(PromQueryFormat.TABLE).instant()
        made.with_target(target)
    return made


def _builder(panel: Panel) -> PanelBuilder:
    match panel.shape:
        case Shape.LINES:
            return timeseries.Panel().fill_opacity(8).show_points(VisibilityMode.NEVER).min(0)
        case Shape.NUMBER:
            return stat.Panel()
        case Shape.HEATMAP:
            return heatmap.Panel()
        case Shape.TABLE:
            return table.Panel()


def _annotation(name: str, metric: str, colour: str) -> dict[str, object]:
    """Marks of a moment that a metric holds: the mark is at the value, not where it was read."""
    return {
        "datasource": {"type": "prometheus", "uid": DATA_SOURCE},
        "enable": True,
        "expr": f'1000 * max({metric}{{app="$app"}})',
        "iconColor": colour,
        "name": name,
        "step": "10s",
        "titleFormat": name,
        "useValueForTime": "on",
    }
