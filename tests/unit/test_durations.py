"""Lengths of time as people write them (`service.durations`)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.durations import microseconds_of
from service.errors import UsageError


@pytest.mark.parametrize(
    ("written", "microseconds"),
    [
        ("10s", 10_000_000),
        (" 1.5 h ", 5_400_000_000),
        ("250us", 250),
        ("0ms", 0),
        ("2d", 172_800_000_000),
        (timedelta(minutes=1), 60_000_000),
    ],
)
def test_a_length_of_time_is_read(written, microseconds):
    assert microseconds_of(written, "size") == microseconds


@pytest.mark.parametrize("written", ["10", "s", "ten seconds", "-5s", "10 S", "", "1e3s"])
def test_what_is_none_is_refused_by_name(written):
    with pytest.raises(UsageError, match="size .*write 10s, 500ms or 1.5h"):
        microseconds_of(written, "size")


def test_a_length_below_zero_is_refused():
    with pytest.raises(UsageError, match="size .* must not be negative"):
        microseconds_of(timedelta(seconds=-1), "size")
