"""Polls as columns: values of every length find their places, whatever stands between them."""

from __future__ import annotations

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from service.ingest.records import SAMPLES_MAX, RawRecords, raw_records


def _raw(values, positions=None) -> RawRecords:
    messages = [
        Message(topic=f"t{at % 2}", partition=at % 3, offset=10 * at, value=value)
        for at, value in enumerate(values)
    ]
    return raw_records(messages, ("t0", "t1"), positions)


def _values(raw: RawRecords) -> list[bytes | None]:
    data = raw.values.tobytes()
    return [
        None if raw.null[row] else data[raw.starts[row] : raw.ends[row]] for row in range(len(raw))
    ]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65_535, 65_536])
def test_a_poll_of_any_size_is_taken_apart(count):
    values = [b"%d" % at for at in range(count)]
    assert _values(_raw(values)) == values


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_535, 65_536, 1 << 20])
def test_a_value_of_any_size_is_found_between_its_neighbours(size):
    values = [b"a", bytes(size), None, b"", b"\xc4\xc5\xc6\xc0", b"z" * size]
    assert _values(_raw(values)) == values


@given(st.lists(st.none() | st.binary(max_size=300), max_size=40))
def test_values_come_out_as_they_went_in(values):
    raw = _raw(values)
    assert _values(raw) == values
    assert [raw.value(row) for row in range(len(raw))] == values
    assert raw.unmarked == sum(not value or value[0] != 0 for value in values)


@pytest.mark.parametrize(
    ("count", "rows"),
    [(0, []), (1, [0]), (8, list(range(8))), (9, [0, 2, 4, 6, 8]), (4_000, range(0, 4_000, 500))],
)
def test_the_times_of_a_few_records_stand_for_all(count, rows):
    messages = [
        Message(topic="t0", partition=0, offset=at, value=b"x", timestamp=(1, 1_000 + at))
        for at in range(count)
    ]
    samples = raw_records(messages, ("t0",)).sampled_times()
    assert [time for time, _ in samples] == [(1_000 + row) * 1_000 for row in rows]
    assert sum(stands_for for _, stands_for in samples) == count
    assert len(samples) <= SAMPLES_MAX


def test_records_without_a_time_are_left_out():
    assert _raw([b"x"] * 5).sampled_times() == []


def test_places_are_those_of_the_messages():
    raw = _raw([b"x"] * 5)
    assert [raw.topic(row) for row in range(5)] == ["t0", "t1", "t0", "t1", "t0"]
    assert raw.topic_index.tolist() == [0, 1, 0, 1, 0]
    assert raw.partitions.tolist() == [0, 1, 2, 0, 1]
    assert raw.offsets.tolist() == [0, 10, 20, 30, 40]


def test_positions_are_those_the_client_said_or_those_behind_the_messages():
    behind = {("t0", 0): 1, ("t1", 1): 11, ("t0", 2): 21, ("t1", 0): 31, ("t0", 1): 41}
    assert _raw([b"x"] * 5).positions() == behind
    said = {("t0", 0): 99}
    raw = _raw([b"x"] * 5, said)
    assert raw.positions() == said
    raw.positions().clear()
    assert raw.positions() == said
