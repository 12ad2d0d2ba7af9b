"""Prometheus' alerts as rules of Grafana's own, which can notify without an Alertmanager.

Flow: text of deploy/prometheus/alerts.yml -> [rules_of] -> text of
deploy/grafana/provisioning/alerting/megaphone.yml.

Invariants
  GA1  A rule fires for the series that Prometheus' alert fires for, whatever their value: an
       expression has a series or none, so the value, which may be 0, decides nothing.
  GA2  Equal alerts give equal text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from grafana_foundation_sdk.builders import expr, prometheus
from grafana_foundation_sdk.builders.alerting import Query, Rule
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from dashboards.grafana import DATA_SOURCE

FOLDER = "Megaphone"
_HEAD = """\
# deploy/prometheus/alerts.yml as Grafana's own rules; `python -m dashboards` writes it. A contact
# point of yours is told of them; Prometheus has the same alerts, for an Alertmanager.
"""
#: Grafana's name for what it computes itself.
_COMPUTED = "__expr__"
_LOOK_BACK_S = 600
#: Grafana takes only multiples of its own scheduler's ten seconds.
_EVERY = "10s"


def rules_of(alerts: str) -> str:
    """What Grafana's provisioning reads, from the text that Prometheus reads."""
    groups = [
        {
            "orgId": 1,
            "name": group["name"],
            "folder": FOLDER,
            "interval": _EVERY,
            "rules": [_rule(each) for each in group["rules"] if "alert" in each],
        }
        for group in yaml.safe_load(alerts)["groups"]
    ]
    made = json.loads(JSONEncoder(sort_keys=True).encode({"apiVersion": 1, "groups": groups}))
    text: str = yaml.safe_dump(made, sort_keys=True, width=100)
    return _HEAD + text


def _rule(alert: Mapping[str, Any]) -> dict[str, object]:
    """One alert; what a file of rules has no place for is left out."""
    made = (
        Rule(alert["alert"])
        .uid(alert["alert"].lower())
        .for_val(alert.get("for", "0s"))
        .labels(alert["labels"])
        .annotations({name: _in_grafana(text) for name, text in alert["annotations"].items()})
        # GA1: no series is what it is like when all is well.
        .no_data_state("OK")
        .exec_err_state("Error")
        .condition("B")
        .with_query(
            Query("A")
            .datasource_uid(DATA_SOURCE)
            .relative_time_range(RelativeTimeRange(from_val=_LOOK_BACK_S, to=0))
            .model(prometheus.Dataquery().ref_id("A").expr(alert["expr"]).instant())
        )
        .with_query(
            Query("B")
            .datasource_uid(_COMPUTED)
            .relative_time_range(RelativeTimeRange(from_val=0, to=0))
            .model(
                expr.TypeMath()
                .ref_id("B")
                .datasource(DataSourceRef(type_val=_COMPUTED, uid=_COMPUTED))
                .expression("is_number($A)")
            )
        )
    )
    said: dict[str, object] = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    kept = "uid", "title", "condition", "data", "for", "labels", "annotations"
    return {name: said[name] for name in (*kept, "noDataState", "execErrState")}


def _in_grafana(text: str) -> str:
    """A text of Prometheus' with the value where Grafana's have it: one of several queries'."""
    return text.replace("$value", "$values.A.Value")
