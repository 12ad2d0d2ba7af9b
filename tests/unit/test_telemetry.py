"""Metrics: names, labels, and that a scrape tells what the process knows and no more."""

from __future__ import annotations

import re

import pytest
from prometheus_client.exposition import generate_latest

from service.telemetry import CATALOGUE, MetricSpec, Reading, registry_of


def scrape(reading: Reading) -> list[str]:
    registry = registry_of("job", "worker-0", lambda: reading)
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
def test_a_name_says_subsystem_thing_and_unit(spec: MetricSpec) -> None:
    name = spec.name
    assert re.fullmatch(r"megaphone_[a-z]+_[a-z_]+", name)
    assert name.endswith("_total") == spec.counter
    assert spec.help.endswith(".")


def test_names_are_used_once() -> None:
    assert len({spec.name for spec in CATALOGUE}) == len(CATALOGUE)


def test_a_value_is_labelled_with_application_and_slot() -> None:
    assert scrape({"megaphone_state_rows": 12.0}) == [
        'megaphone_state_rows{app="job",slot="worker-0"} 12.0'
    ]


def test_values_by_reason_get_one_more_label() -> None:
    found = scrape({"megaphone_ingest_rejected_total": {"bad header": 2, "short": 1}})
    assert found == [
        'megaphone_ingest_rejected_total{app="job",reason="bad header",slot="worker-0"} 2.0',
        'megaphone_ingest_rejected_total{app="job",reason="short",slot="worker-0"} 1.0',
    ]


def test_what_a_process_does_not_know_is_absent_and_zero_is_not() -> None:
    assert scrape({}) == []
    assert scrape({"megaphone_state_rows": 0}) == [
        'megaphone_state_rows{app="job",slot="worker-0"} 0.0'
    ]


def test_every_scrape_reads_again() -> None:
    values = iter([1.0, 2.0, 3.0])
    registry = registry_of("job", "worker-0", lambda: {"megaphone_state_rows": next(values)})
    first, second = (generate_latest(registry).decode() for _ in range(2))
    assert first != second
