"""Selections by time, summaries and pictures of a measurement.

Cannot catch: whether a picture is pleasant; only that it is one, with what was asked for.
"""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.histogram import Histogram
from loadgen.measure import window_document
from loadgen.report import (
    Mark,
    Window,
    ccdf_ms,
    ccdf_png,
    latency_ms,
    split,
    timeline,
    timeline_png,
    windows_of,
)

START_US = 1_800_000_000_000_000
WIDTH = 250_000


def histogram_of(*values_us):
    histogram = Histogram()
    histogram.record(np.array(values_us, dtype=np.int64))
    return histogram


def windows_with(*latencies_us):
    return [
        Window(START_US + i * WIDTH, WIDTH, histogram_of(v)) for i, v in enumerate(latencies_us)
    ]


def test_a_range_takes_every_window_it_touches():
    windows = windows_with(1_000, 2_000, 3_000, 4_000)
    inside, outside = split(windows, [(START_US + WIDTH + 1, START_US + 2 * WIDTH)])
    assert (inside.min_us, inside.max_us, inside.count) == (2_000, 3_000, 2)
    assert (outside.min_us, outside.max_us, outside.count) == (1_000, 4_000, 2)


def test_a_range_inside_one_window_takes_that_window():
    inside, _ = split(windows_with(1, 2, 3), [(START_US + WIDTH + 10, START_US + WIDTH + 20)])
    assert inside == histogram_of(2)


def test_a_margin_leaves_neighbours_to_neither_side():
    windows = windows_with(1, 2, 3, 4, 5)
    middle = START_US + 2 * WIDTH
    inside, outside = split(windows, [(middle + 1, middle + 2)], margin_us=WIDTH)
    assert inside == histogram_of(3)
    assert outside == histogram_of(1, 5)


def test_without_ranges_everything_is_outside():
    inside, outside = split(windows_with(1, 2), [])
    assert inside.count == 0
    assert outside == histogram_of(1, 2)


def test_percentiles_are_milliseconds():
    summary = latency_ms(histogram_of(*range(0, 100_000, 100)))
    assert summary["count"] == 1_000
    assert summary["max"] == 99.9
    assert summary["p50"] == pytest.approx(50, rel=0.02)
    assert summary["p999"] == pytest.approx(99.9, rel=0.02)


def test_printed_windows_read_back():
    windows = windows_with(1_000, 2_000)
    documents = [window_document(w.start_us, w.histogram) for w in windows]
    assert windows_of(documents, WIDTH) == windows
    assert [point["max_ms"] for point in timeline(windows)] == [1.0, 2.0]


def test_the_ccdf_falls_to_zero_at_the_maximum():
    assert ccdf_ms(histogram_of(1_000, 1_000, 50_000))[-1] == (50.0, 0.0)


def test_pictures_are_written(tmp_path):
    rng = np.random.default_rng(3)
    windows = [
        Window(START_US + i * WIDTH, WIDTH, histogram_of(*rng.integers(4_000, 20_000, 50)))
        for i in range(40)
    ]
    marks = [Mark(START_US + 3_000_000, START_US + 4_500_000, "move 1")]
    timeline_png(tmp_path / "timeline.png", windows, marks, title="Latency")
    ccdf_png(tmp_path / "ccdf.png", {"steady": windows[0].histogram, "none": Histogram()})
    for name in ("timeline.png", "ccdf.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_an_empty_measurement_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="no records"):
        timeline_png(tmp_path / "x.png", [Window(0, WIDTH, Histogram())])
    with pytest.raises(ValueError, match="no records"):
        ccdf_png(tmp_path / "x.png", {"a": Histogram()})
