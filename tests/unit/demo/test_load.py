"""What the generator, the meter and the probe say, kept for the summary."""

from __future__ import annotations

import numpy as np

from demo.load import WINDOW_MS, Generated, Measured, Stalls
from loadgen.histogram import Histogram
from loadgen.measure import window_document

WINDOW_US = WINDOW_MS * 1000


def window(number, *latencies_us):
    histogram = Histogram()
    histogram.record(np.array(latencies_us, dtype=np.int64))
    return {"kind": "window", **window_document(number * WINDOW_US, histogram)}


def test_the_generator_is_followed_through_both_phases():
    generated = Generated()
    generated.take({"kind": "progress", "phase": "load", "events": 5, "events_per_second": 9})
    assert (generated.total, generated.per_second) == (5, 9)
    generated.take({"kind": "summary", "phase": "load", "events": 20})
    generated.take({"kind": "schedule", "start_us": 7, "end_us": 9, "events": 3})
    generated.take({"kind": "progress", "phase": "live", "events": 1, "events_per_second": 4})
    assert generated.total == 21
    assert generated.schedule == (7, 9)
    assert list(generated.summaries) == ["load"]


def test_the_last_second_forgets_what_is_older():
    measured = Measured()
    assert measured.last_second() is None
    measured.take(window(0, 500_000))
    for number in range(1, 11):
        measured.take(window(number, 1_000, 3_000))
    latency = measured.last_second()
    assert latency is not None
    assert latency.max == 3.0
    assert measured.p99_by_second[0][1] == 500.0


def test_seconds_in_which_bins_moved_are_marked():
    measured = Measured()
    for number in range(30):
        measured.take(window(number, 1_000))
    moving = [second.moving for second in measured.seconds([(1_100_000, 1_200_000)])]
    assert moving == [False, True, False]


def test_the_longest_stall_is_that_of_the_interval():
    stalls = Stalls()
    stalls.take(
        {"kind": "stalls", "window_us": 100, "windows": [[0, 9_000], [500, 2_000], [900, 4_000]]}
    )
    assert stalls.worst_ms(0, 2_000) == 9.0
    assert stalls.worst_ms(450, 700) == 2.0
    assert stalls.worst_ms(300, 450) == 0.0
