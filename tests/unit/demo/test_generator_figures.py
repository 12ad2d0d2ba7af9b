"""The generator's figures: which bound holds for which, and results that the meter can read.

Cannot catch: what the machine makes of it (docs/LOADGEN.md).
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from demo.generator_figures import PARTITIONS, RUN_EVENTS, figure_of, main, results_at
from loadgen.measure import auction_bids
from loadgen.payloads import Payloads
from service.bench.nexmark import kafka_figures


@pytest.mark.parametrize(
    ("name", "values", "met"),
    [
        ("produced, direct", [499_000, 500_000, 900_000], True),
        ("produced, direct", [499_000, 499_999, 900_000], False),
        ("late at 250,000/s, direct", [0.0, 0.01, 0.5], True),
        ("late at 250,000/s, direct", [0.0, 0.011, 0.5], False),
        ("an event at 250,000/s, direct", [9.0], None),
    ],
)
def test_a_figure_is_held_to_the_bound_of_its_kind(name, values, met):
    assert figure_of(name, values).met is met


def test_results_are_records_that_the_meter_reads():
    starts = np.arange(PARTITIONS + 1) * (RUN_EVENTS // PARTITIONS)
    run = results_at(1_750_000_000_123, starts)
    assert len(run.values()) == run.partition_starts[-1] == RUN_EVENTS
    read = auction_bids().values(Payloads.of(run.values()))
    assert read.tolist() == [1_750_000_000_123] * RUN_EVENTS


def test_lateness_is_judged_at_the_highest_rate_that_a_job_has_a_bound_at():
    assert inspect.signature(main).parameters["rate"].default == kafka_figures.RATE == 250_000
