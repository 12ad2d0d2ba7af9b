"""Prometheus, a real one, reads running jobs; every query of every dashboard finds its data there.

Two jobs, since no flow has all there is: one of four processes with a bound on memory, checkpoints,
a move, bad records and a rejected request; one of a single process with event time.
Cannot catch: what Grafana makes of the answers.
"""

from __future__ import annotations

import json
import re
import time

import pytest
from confluent_kafka import Producer

from tests.integration.bids import publish
from tests.integration.flows import SCHEMAS
from tests.integration.job import ROOT, registry
from tests.integration.prometheus import DEPLOY, Prometheus, promtool
from tests.integration.user_flow import start, topics

BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
EVENTS = 2_000
MORE = 400
WAIT_S = 45.0
#: Panels of which the job with event time has the data, and not the other one.
TIMED = {"Watermark lag"}
#: What the test provokes must show.
PROVOKED = {
    "Active", "Bins to move", "Duration", "Longest wait", "Ended", "State received",
    "Bins received", "Waves", "Wave duration", "Bad records", "Share of bad records", "Requests",
    "Checkpoints", "Latency", "Watermark lag", "Plan begins", "Plan ends",
}  # fmt: skip
#: Panels that must show the plan while it is under way.
UNDER_WAY = {"Active", "Bins to move"}
#: A quarter of worker 0's bins go at once, the others some seconds later.
PLAN = {
    "id": "slowly",
    "kind": "move",
    "waves": [[[bin_, 1] for bin_ in range(8 * wave, 8 * wave + 8)] for wave in range(4)],
    "after_us": [0, 6_000_000, 6_500_000, 7_000_000],
}
BAD = [b"nonsense", b"", b"\x00\x00\x00\x00\x63what schema?"]
REASONS = {"bad_magic", "empty_value", "unknown_schema"}
#: Title of a panel, the label that tells its series apart, and those that must not be zero.
PROVOKED_SERIES = (
    ("Requests", "result", {"rejected", "completed"}),
    ("Bad records", "reason", REASONS),
)


def queries():
    """(board, title of panel or annotation, PromQL) of everything that Grafana asks."""
    for path in BOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield path.stem, panel["title"], target["expr"]
        for annotation in board["annotations"]["list"]:
            yield path.stem, annotation["name"], annotation["expr"]


def test_the_rules_hold_what_their_tests_say():
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_stands_in_the_runbook():
    rules = (DEPLOY / "alerts.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) > 15
    tests = (DEPLOY / "alerts_test.yml").read_text(encoding="utf-8")
    fired = re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", tests)
    assert set(fired) == set(alerts)
    pages = re.findall(r"^### (\w+)$", (ROOT / "docs" / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert pages == alerts
    links = re.findall(r"runbook_url: docs/RUNBOOK.md#(\w+)", rules)
    assert links == [alert.lower() for alert in alerts]


@pytest.fixture
def jobs(bootstrap_servers, unique_name, tmp_path):
    """Two running jobs by role, and the topic that both read."""
    prefix = topics(
        bootstrap_servers,
        unique_name("t"),
        "counts",
        "groups",
        "bid-windows",
        "auction-windows",
        "late",
    )
    publish(bootstrap_servers, f"{prefix}-events", EVENTS)
    # Times as numbers: no schemas but those the flow is about.
    for file in registry(tmp_path / "times" / "schemas", SCHEMAS).glob("*.avsc"):
        if int(file.stem) not in {1, 2, 3, *SCHEMAS}:
            file.unlink()
    often = {"MEGAPHONE_CONTROL__HEARTBEAT_MS": "100"}
    rows = start(
        bootstrap_servers, unique_name("rows"), prefix, tmp_path / "rows", "two_stages",
        "--state-memory", "64MiB", "--checkpoint-every", "2",
        gateways=1, environment=often,
    )  # fmt: skip
    times = start(
        bootstrap_servers, unique_name("times"), prefix, tmp_path / "times", "windows", "--local",
        workers=1, gateways=1, environment=often,
    )  # fmt: skip
    with rows, times:
        rows.await_running()
        times.await_running()
        yield {"rows": rows, "times": times}, prefix


def publish_bad(bootstrap_servers, topic):
    """Publish records that are no rows."""
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for value in BAD:
        producer.produce(topic, value, partition=0)
    assert producer.flush(10) == 0


class Asked:
    """The queries of all dashboards that have not found what they are to find."""

    def __init__(self, prometheus, apps):
        self._prometheus = prometheus
        self._apps = apps
        self.begun = time.time()
        self.missing = dict.fromkeys(queries(), "not asked yet")

    def have_found(self, titles=None):
        """Ask what is missing; whether nothing of these titles, or at all, is missing now."""
        for query in list(self.missing):
            _, title, text = query
            app = self._apps["times" if title in TIMED else "rows"]
            values = self._prometheus.values(as_sent(text, app), self.begun)
            if values and (title not in PROVOKED or any(values)):
                del self.missing[query]
            else:
                self.missing[query] = "zero" if values else "nothing"
        return not any(titles is None or title in titles for _, title, _ in self.missing)


@pytest.mark.timeout(180)
def test_every_query_of_every_dashboard_finds_data(bootstrap_servers, jobs, tmp_path):
    running, prefix = jobs
    job = running["rows"]
    addresses = [address for each in running.values() for address in each.addresses().values()]
    with Prometheus(tmp_path / "prometheus", addresses) as prometheus:
        prometheus.await_(
            lambda: len(prometheus.get("/api/v1/query", query="up == 1")["result"]) == 7,
            "a scrape of all seven",
            WAIT_S,
        )
        asked = Asked(prometheus, {name: each.app for name, each in running.items()})
        published = EVENTS

        def found(titles=None):
            # Rates are of what still happens.
            nonlocal published
            publish(bootstrap_servers, f"{prefix}-events", MORE, first=published)
            published += MORE
            publish_bad(bootstrap_servers, f"{prefix}-events")
            return asked.have_found(titles)

        try:
            job.request({"id": "nobody", "kind": "move", "moves": [[0, 99]]}, PLAN)
            job.await_status("slowly", "running")
            # So that it is seen under way, however slow this machine is.
            job.request({"id": "hold-on", "kind": "pause", "plan": "slowly"})
            job.await_status("slowly", "paused")
            prometheus.await_(lambda: found(UNDER_WAY), "a plan under way", WAIT_S)
            job.request({"id": "go-on", "kind": "resume", "plan": "slowly"})
            prometheus.await_(found, "all data", WAIT_S)
        except AssertionError as error:
            error.add_note("\n".join(f"{query}: {what}" for query, what in asked.missing.items()))
            raise
        assert job.await_status("slowly", "completed")["bins"] == 32
        assert job.await_status("nobody", "rejected")["reason"]
        assert {title for _, title, _ in queries()} >= PROVOKED | TIMED | UNDER_WAY

        for title, label, shown in PROVOKED_SERIES:
            texts = {text for _, panel, text in queries() if panel == title}
            (text,) = [each for each in texts if f"({label})" in each]
            series = prometheus.series(as_sent(text, job.app), asked.begun)
            assert {labels[label] for labels, values in series if any(values)} >= shown, title

        for name, label, metric in variables():
            values = prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": metric})
            assert values, name
        rules = rules_of(prometheus)
        assert {rule["health"] for rule in rules} == {"ok"}, rules
        prometheus.await_(
            lambda: "MegaphoneRequestsRejected" in firing_in(prometheus), "the alert", WAIT_S
        )
        firing = firing_in(prometheus)
        assert firing <= {"MegaphoneBadRecords", "MegaphoneRequestsRejected", *SLOW}, firing


def rules_of(prometheus):
    """Every rule, as Prometheus tells it."""
    groups = prometheus.get("/api/v1/rules")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def firing_in(prometheus):
    """Names of the alerts that fire."""
    return {rule["name"] for rule in rules_of(prometheus) if rule.get("state") == "firing"}


#: A test machine that is busy may be late, which is not what this test is about.
SLOW = {
    "MegaphoneCheckpointOld", "MegaphoneLatencyBudgetBurnsFast",
    "MegaphoneLatencyBudgetBurnsSlowly", "MegaphoneMigrationHoldsRows",
}  # fmt: skip


def as_sent(text, app):
    """A query as Grafana sends it, with everything chosen."""
    for name, value in (
        ("$__rate_interval", "5s"),
        ("$__range", "60s"),
        ("$app", app),
        ("$operator", ".*"),
        ("$worker", ".*"),
    ):
        text = text.replace(name, value)
    assert "$" not in text, text
    return text


def variables():
    """(variable, label, metric) of each variable of each board."""
    for path in BOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        for variable in board["templating"]["list"]:
            query = variable["query"]
            text = query if isinstance(query, str) else query["query"]
            metric, label = re.fullmatch(r"label_values\((.*?), (\w+)\)", text).groups()
            yield variable["name"], label, re.sub(r"\{.*\}", "", metric)
