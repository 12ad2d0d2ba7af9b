"""Reports of several processes together: as if one process had done it all.

Cannot catch: processes that did not share a schedule.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadgen.fields import JsonField
from loadgen.histogram import Histogram
from loadgen.measure import LatencyMeter
from loadgen.merging import Mismatch, merged
from loadgen.payloads import Payloads

START_US = 1_800_000_000_000_000


def meter(window_us=250_000):
    return LatencyMeter(START_US, window_us, reader=JsonField("at"))


def results(times_ms):
    return Payloads.of([b'{"at":%d}' % time_ms for time_ms in times_ms])


def test_meters_of_parts_merge_to_the_meter_of_the_whole():
    rng = np.random.default_rng(2)
    whole, *parts = meter(), meter(), meter(), meter()
    now = START_US
    for _ in range(30):
        now += int(rng.integers(1, 200_000))
        times = now // 1000 - rng.integers(0, 5_000, 30)
        owners = rng.integers(0, len(parts), 30)
        for each in (whole, *parts):
            list(each.closed_windows(now))
        whole.observe(results(times.tolist()), now)
        for number, part in enumerate(parts):
            part.observe(results(times[owners == number].tolist()), now)
    (together,) = merged(json.loads(json.dumps(part.final())) for part in parts)
    expected = whole.final()
    assert together["intended"] == expected["intended"]
    assert together["count"] == expected["count"] == 900
    filled = [w for w in together["consumed"] if w["count"]]
    assert filled == [w for w in expected["consumed"] if w["count"]]
    total = Histogram.merged(Histogram.of_document(w["histogram"]) for w in together["consumed"])
    assert total.count == 900


def summary(**changes):
    return {
        "kind": "summary",
        "phase": "live",
        "start_us": 1_000_000,
        "end_us": 3_000_000,
        "events": 100,
        "events_per_second": 50,
        "cpu_us_per_event": 2.0,
        "late": 0,
        "late_fraction": 0.0,
        "lateness_ms_max": 1.5,
        "queue_full_waits": 0,
        **changes,
    }


def test_summaries_of_shares_add_up_and_lateness_is_never_averaged_away():
    slow = summary(
        end_us=5_000_000, events=300, late=30, lateness_ms_max=90.0, cpu_us_per_event=1.0
    )
    load = summary(phase="load")
    live, opened = merged([{"kind": "progress"}, summary(), load, slow])
    assert live == {
        "kind": "summary",
        "phase": "live",
        "processes": 2,
        "start_us": 1_000_000,
        "end_us": 5_000_000,
        "events": 400,
        "events_per_second": 100,
        "cpu_us_per_event": 1.25,
        "late": 30,
        "late_fraction": 0.075,
        "lateness_ms_max": 90.0,
        "queue_full_waits": 0,
    }
    assert (opened["phase"], opened["processes"]) == ("load", 1)


def test_timelines_of_different_windows_are_refused():
    with pytest.raises(Mismatch, match="250000 and of 500000"):
        merged([meter().final(), meter(500_000).final()])
