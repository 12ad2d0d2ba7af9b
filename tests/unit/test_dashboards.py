"""The dashboards: what is committed is what their definition gives, and they ask for what there is.

Whether Prometheus has an answer to each query: tests/integration/test_prometheus.py.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from dashboards.__main__ import FOLDER, stale
from dashboards.alerting import rules_of
from dashboards.boards import BOARDS
from dashboards.grafana import DATA_SOURCE
from dashboards.panel import WIDTH
from service.catalogue import CATALOGUE, Kind
from tests.integration.compose import services

ROOT = Path(__file__).parents[2]
FILES = sorted(FOLDER.glob("*.json"))
UIDS = {f"megaphone-{name}" for name in ("overview", "migration", "ingest", "state", "process")}
METRIC = re.compile(r"\bmegaphone_[a-z_]+")
RULES = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")


def names(text: str) -> set[str]:
    """Metrics of the catalogue that a text names; series of a histogram stand for it."""
    found = set()
    for name in METRIC.findall(text):
        if name in KNOWN:
            found.add(name)
            continue
        whole = re.sub(r"_(bucket|sum|count)$", "", name)
        assert KNOWN.get(whole) is Kind.HISTOGRAM, f"{name} is not in service/catalogue.py"
        found.add(whole)
    return found


KNOWN = {spec.name: spec.kind for spec in CATALOGUE}


PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def provisioned(name: str) -> dict[str, Any]:
    """A file of Grafana's provisioning."""
    found: dict[str, Any] = yaml.safe_load((PROVISIONING / name).read_text(encoding="utf-8"))
    return found


def test_grafana_has_the_alerts_that_prometheus_has() -> None:
    theirs = {
        rule["alert"]: rule
        for group in yaml.safe_load(RULES)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    groups = provisioned("alerting/megaphone.yml")["groups"]
    ours = {rule["title"]: rule for group in groups for rule in group["rules"]}
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 10
    assert len({rule["uid"] for rule in ours.values()}) == len(ours)
    for name, rule in ours.items():
        asked, judged = rule["data"]
        assert asked["datasourceUid"] == DATA_SOURCE
        assert asked["model"]["expr"] == theirs[name]["expr"]
        assert asked["model"]["instant"] is True
        assert judged["model"]["refId"] == rule["condition"]
        # The value decides nothing, that there is one does: several alerts compare with 0.
        assert judged["model"]["expression"] == f"is_number(${asked['refId']})"
        assert rule["noDataState"] == "OK"
        assert rule["labels"] == theirs[name]["labels"]
        assert rule["for"] == theirs[name].get("for", "0s")
        summary, said = rule["annotations"]["summary"], theirs[name]["annotations"]["summary"]
        assert summary.replace("$values.A.Value", "$value") == said
        assert "$value " not in summary
        assert len(rule["uid"]) <= 40, "Grafana takes no longer ones"


def test_links_to_the_runbook_become_whole_as_the_document_says(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "DEPLOYING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (sed -i .*runbook_url.*)$", document, re.MULTILINE)
    *command, name = shlex.split(line)
    alerts = tmp_path / "alerts.yml"
    alerts.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([*command, alerts], check=True)
    changed = alerts.read_text(encoding="utf-8")
    for text in (changed, rules_of(changed)):
        links = re.findall(r"runbook_url: (\S+)", text)
        assert len(links) >= 10
        assert all(re.fullmatch(r"https://.+/docs/RUNBOOK\.md#\w+", link) for link in links)


def test_grafana_finds_in_the_composition_what_its_provisioning_names() -> None:
    (provider,) = provisioned("dashboards/megaphone.yml")["providers"]
    (source,) = provisioned("datasources/prometheus.yml")["datasources"]
    composed = services({})
    mounts = dict(each.split(":")[:2] for each in composed["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert source["uid"] == DATA_SOURCE
    address = urlsplit(source["url"])
    assert composed["prometheus"]["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
    assert address.hostname in composed["grafana"]["depends_on"]
    groups = provisioned("alerting/megaphone.yml")["groups"]
    assert {group["folder"] for group in groups} == {provider["folder"]}
    assert {int(group["interval"].removesuffix("s")) % 10 for group in groups} == {0}


def test_what_is_committed_is_what_the_definition_gives() -> None:
    assert stale() == [], "run `python -m dashboards`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_has_its_uid_three_variables_and_the_provisioned_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    board = json.loads(text)
    assert board["uid"] == path.stem
    assert [each["name"] for each in board["templating"]["list"]] == ["app", "operator", "worker"]
    provisioned = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = re.findall(r"^    uid: (\S+)$", provisioned.read_text(), re.MULTILINE)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    for panel in [*panels, *board["annotations"]["list"], *board["templating"]["list"]]:
        assert panel["datasource"] == {"type": "prometheus", "uid": source}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["description"].endswith(".")
        for target in panel["targets"]:
            assert 'app="$app"' in target["expr"]
            assert "vector(" not in target["expr"]
    assert {each["name"] for each in board["annotations"]["list"]} == {"Plan begins", "Plan ends"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_variable_is_shown_where_a_query_asks_for_it_and_nowhere_else(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    for variable in board["templating"]["list"]:
        asked = any(f"${variable['name']}" in query for query in queries)
        assert variable["hide"] == (0 if asked else 2), variable["name"]


def test_every_variable_is_asked_for_on_some_board() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    for filter_ in ('app=\\"$app\\"', 'operator=~\\"$operator\\"', 'slot=~\\"$worker\\"'):
        assert sum(filter_ in text for text in texts) >= 3, filter_


def test_uids_are_those_that_links_name() -> None:
    assert {path.stem for path in FILES} == UIDS


def test_panels_fill_their_lines_and_do_not_overlap() -> None:
    for path in FILES:
        cells: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= WIDTH
            own = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not own & cells, f"{path.stem}: {panel['title']}"
            cells |= own


def test_every_metric_is_on_a_dashboard_and_nothing_else_is_asked_for() -> None:
    asked = set()
    for path in FILES:
        asked |= names(path.read_text(encoding="utf-8"))
    assert asked == set(KNOWN)


def test_alerts_ask_for_metrics_that_there_are() -> None:
    assert len(names(re.sub(r"app:megaphone_\w+:\w+", "", RULES))) > 15


def test_titles_are_unique_on_a_dashboard() -> None:
    for board in BOARDS:
        titles = [panel.title for row in board.rows for panel in row.panels]
        assert len(set(titles)) == len(titles), board.uid
