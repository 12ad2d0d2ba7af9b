"""Properties of the latency histogram, against numpy on the raw values.

Cannot catch: a wrong clock or a wrong unit where values are taken.
"""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.histogram import BUCKETS, VALUE_MAX, Histogram, Timeline, upper_edges

# Kernels compile on first use, which is no sign of a slow test.
TIMELESS = settings(deadline=None)
VALUES = st.lists(
    st.one_of(st.integers(0, 300), st.integers(0, 1_000_000), st.integers(0, VALUE_MAX)),
    max_size=200,
)


def histogram_of(values):
    histogram = Histogram()
    histogram.record(np.array(values, dtype=np.int64))
    return histogram


@TIMELESS
@given(VALUES, VALUES, VALUES)
def test_merging_is_associative_and_equals_recording_all(a, b, c):
    x, y, z = map(histogram_of, (a, b, c))
    left = Histogram.merged([Histogram.merged([x, y]), z])
    right = Histogram.merged([x, Histogram.merged([y, z])])
    assert left == right == histogram_of(a + b + c)
    assert Histogram.merged([y, x]) == Histogram.merged([x, y])


@TIMELESS
@given(VALUES.filter(bool), st.floats(0, 1))
def test_a_quantile_is_at_most_a_sixty_fourth_above_the_true_one(values, fraction):
    true = int(np.quantile(values, fraction, method="inverted_cdf"))
    reported = histogram_of(values).quantile(fraction)
    assert true <= reported <= true * (1 + 1 / 64)
    assert reported <= max(values)


@TIMELESS
@given(VALUES)
def test_count_sum_and_extremes_are_exact(values):
    histogram = histogram_of(values)
    assert histogram.count == len(values)
    assert histogram.sum_us == sum(values)
    assert histogram.min_us == min(values, default=0)
    assert histogram.max_us == max(values, default=0)


@TIMELESS
@given(VALUES)
def test_a_document_reads_back_to_an_equal_histogram(values):
    histogram = histogram_of(values)
    assert Histogram.of_document(json.loads(json.dumps(histogram.document()))) == histogram


@TIMELESS
@given(VALUES.filter(bool))
def test_the_ccdf_is_the_share_of_values_above(values):
    points = list(histogram_of(values).ccdf())
    shares = [share for _, share in points]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    for value, share in points:
        assert share == np.mean(np.array(values) > value)


@TIMELESS
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, VALUE_MAX)), max_size=300))
def test_a_timeline_puts_each_value_into_the_window_of_its_time(pairs):
    timeline = Timeline(100)
    # Value by value and backwards too, so that packed windows are opened again.
    for time, value in pairs[::-1]:
        timeline.record(np.array([time]), np.array([value]))
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    timeline.record(columns[:, 0].copy(), columns[:, 1].copy())
    expected = {}
    for time, value in pairs:
        expected.setdefault(time // 100 * 100, []).extend([value, value])
    found = dict(timeline.windows())
    assert list(found) == sorted(expected)
    assert found == {start: histogram_of(values) for start, values in expected.items()}


def test_values_beyond_the_range_are_clamped_and_counted():
    histogram = histogram_of([-5, 1 << 50])
    assert (histogram.count, histogram.min_us, histogram.max_us) == (2, 0, VALUE_MAX)


def test_buckets_cover_the_range_without_gaps():
    edges = upper_edges()
    assert len(edges) == BUCKETS
    assert edges[-1] == VALUE_MAX
    assert (np.diff(edges) > 0).all()


def test_an_empty_histogram_answers_zero():
    assert Histogram().quantile(0.99) == 0
    assert list(Histogram().ccdf()) == []
