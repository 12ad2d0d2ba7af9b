"""Loads of bins: counted in part, told in few bytes, kept as the newest owner told them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from service.errors import ProtocolViolation
from service.migration.loads import LoadBook, LoadMeter, load_report
from service.migration.reports import LoadReport, plain, read_report


def test_few_rows_are_all_counted() -> None:
    meter = LoadMeter(4)
    for _ in range(3):
        assert meter.wants(2)
        meter.count(np.array([1, 3], dtype=np.int32))
    assert meter.take().tolist() == [0, 3, 0, 3]
    assert meter.take().tolist() == [0, 0, 0, 0]


def test_of_many_rows_an_eighth_is_counted_and_stands_for_all() -> None:
    meter = LoadMeter(2)
    counted = 0
    for _ in range(1_000):
        if meter.wants(1_000):
            counted += 1
            meter.count(np.repeat(np.array([0, 1], dtype=np.int32), [250, 750]))
    assert 120 <= counted <= 135
    assert meter.take().tolist() == pytest.approx([250_000, 750_000], rel=0.01)


def test_numbers_survive_a_report_within_a_thousandth() -> None:
    rows = np.array([0, 1, 7, 123_456_789, 1 << 62])
    installed = np.array([True, True, False, True, True, True, False, False])
    report = load_report(installed, _at(installed, rows), _at(installed, rows), np.zeros(8))
    sent = msgspec.json.decode(msgspec.json.encode(plain(report)))
    back = read_report(sent)
    assert isinstance(back, LoadReport)
    assert back == report
    book = LoadBook(8)
    book.take(back)
    assert book.rows[installed].tolist() == pytest.approx(rows.tolist(), rel=1e-3)
    assert book.rows[0] == 0
    assert book.known.tolist() == installed.tolist()
    assert not book.is_complete


def _at(installed: np.ndarray, values: np.ndarray) -> np.ndarray:
    every = np.zeros(installed.size, dtype=np.int64)
    every[installed] = values
    return every


def test_a_report_is_small_however_large_the_numbers() -> None:
    bins = 65_536
    report = load_report(
        np.ones(bins, np.bool_),
        np.full(bins, 1 << 60),
        np.full(bins, 1 << 60),
        np.full(bins, 1e18),
    )
    assert len(msgspec.json.encode(plain(report))) <= bins * 6.125 * 4 / 3 + 200


def test_the_newest_owner_has_the_last_word() -> None:
    book = LoadBook(2)
    both = np.array([True, True])
    book.take(load_report(both, np.array([5, 5]), np.array([50, 50]), np.array([1.0, 1.0])))
    second = np.array([False, True])
    book.take(load_report(second, np.array([9, 9]), np.array([90, 90]), np.array([2.0, 2.0])))
    assert book.rows.round().tolist() == [5, 9]
    assert book.sizes.tolist() == pytest.approx([50, 90], abs=1)
    assert book.is_complete


@pytest.mark.parametrize("bins", [1, 9, 64])
def test_a_report_about_other_bins_than_the_job_has_is_refused(bins: int) -> None:
    report = load_report(
        np.ones(8, np.bool_), np.zeros(8, np.int64), np.zeros(8, np.int64), np.zeros(8)
    )
    with pytest.raises(ProtocolViolation, match="LD1"):
        LoadBook(bins).take(report)
