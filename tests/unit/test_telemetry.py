"""Metrics: the catalogue, the code that tells them, and what a scrape shows of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from service.catalogue import CATALOGUE, Kind, MetricSpec
from service.telemetry import Histogram, Reading, registry_of

SERVICE = Path(__file__).parents[2] / "service"
NAME = re.compile(r"megaphone_[a-z]+(_[a-z]+)+")
SUBSYSTEMS = {
    "ingest", "dataflow", "transport", "state", "migration", "egress", "control", "checkpoint",
    "process",
}  # fmt: skip
UNITS = {
    "attempts", "batches", "bins", "bytes", "connections", "frames", "handshakes", "info",
    "lookups", "plans", "records", "requests", "rows", "seconds", "sources",
}  # fmt: skip
LABELS = {"class", "operator", "part", "python", "reason", "result", "state", "version"}


def scrape(reading: Reading) -> list[str]:
    registry = registry_of("job", "worker-0", lambda: reading)
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def told() -> set[str]:
    """Names of metrics that the service's code has in its strings, but for the catalogue."""
    return {
        node.value
        for path in SERVICE.rglob("*.py")
        if path.name != "catalogue.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and NAME.fullmatch(node.value)
    }


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
def test_a_name_says_subsystem_thing_and_unit(spec: MetricSpec) -> None:
    assert NAME.fullmatch(spec.name)
    assert spec.name.split("_")[1] in SUBSYSTEMS
    assert spec.unit in UNITS
    assert spec.name.endswith("_total") == (spec.kind is Kind.COUNTER)
    assert spec.help.endswith(".")
    assert set(spec.labels) <= LABELS


def test_every_subsystem_tells_something() -> None:
    assert {spec.name.split("_")[1] for spec in CATALOGUE} == SUBSYSTEMS


def test_names_are_used_once() -> None:
    assert len({spec.name for spec in CATALOGUE}) == len(CATALOGUE)


def test_the_code_tells_what_the_catalogue_lists_and_nothing_else() -> None:
    assert told() == {spec.name for spec in CATALOGUE}


def test_a_value_is_labelled_with_application_and_slot() -> None:
    assert scrape({"megaphone_dataflow_held_bytes": 12.0}) == [
        'megaphone_dataflow_held_bytes{app="job",slot="worker-0"} 12.0'
    ]


def test_values_by_reason_get_one_more_label() -> None:
    name = "megaphone_ingest_rejected_records_total"
    assert scrape({name: {"bad header": 2, "short": 1}}) == [
        f'{name}{{app="job",reason="bad header",slot="worker-0"}} 2.0',
        f'{name}{{app="job",reason="short",slot="worker-0"}} 1.0',
    ]


def test_values_by_two_labels_get_both() -> None:
    assert scrape({"megaphone_process_build_info": {("1.2", "3.11"): 1}}) == [
        'megaphone_process_build_info{app="job",python="3.11",slot="worker-0",version="1.2"} 1.0'
    ]


def test_a_distribution_is_cumulative_up_to_infinity() -> None:
    waits = Histogram((0.5, 2.0))
    for value, times in ((0.5, 1), (0.6, 3), (9.0, 2)):
        waits.count(value, times)
    name = "megaphone_migration_wave_seconds"
    assert scrape({name: waits.read()}) == [
        f'{name}_bucket{{app="job",le="0.5",slot="worker-0"}} 1.0',
        f'{name}_bucket{{app="job",le="2.0",slot="worker-0"}} 4.0',
        f'{name}_bucket{{app="job",le="+Inf",slot="worker-0"}} 6.0',
        f'{name}_count{{app="job",slot="worker-0"}} 6.0',
        f'{name}_sum{{app="job",slot="worker-0"}} {0.5 + 3 * 0.6 + 18.0}',
    ]


def test_what_was_read_of_a_histogram_does_not_change_with_it() -> None:
    waits = Histogram((1.0,))
    before = waits.read()
    waits.count(3.0)
    assert (before.counts, before.total) == ((0, 0), 0.0)
    assert (waits.read().counts, waits.read().total) == ((0, 1), 3.0)


def test_what_a_process_does_not_know_is_absent_and_zero_is_not() -> None:
    assert scrape({}) == []
    assert scrape({"megaphone_dataflow_held_bytes": 0}) == [
        'megaphone_dataflow_held_bytes{app="job",slot="worker-0"} 0.0'
    ]


@pytest.mark.parametrize(
    "reading",
    [
        {"megaphone_state_rowz": 1},
        {"megaphone_state_rows": 1},
        {"megaphone_dataflow_held_bytes": {"out": 1}},
        {"megaphone_process_build_info": {"1.2": 1}},
        {"megaphone_dataflow_held_bytes": Histogram().read()},
    ],
    ids=["unknown", "label missing", "label too many", "one of two labels", "no histogram"],
)
def test_what_is_not_as_the_catalogue_says_is_an_error(reading: Reading) -> None:
    with pytest.raises(AssertionError, match="T1"):
        scrape(reading)


def test_every_scrape_reads_again() -> None:
    values = iter([1.0, 2.0, 3.0])
    registry = registry_of(
        "job", "worker-0", lambda: {"megaphone_egress_bytes_total": next(values)}
    )
    first, second = (generate_latest(registry).decode() for _ in range(2))
    assert first != second
