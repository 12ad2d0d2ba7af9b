"""Forms of the stream: every one reads back, by readers we did not write, to the same events.

Cannot catch: a consumer that wants another form; what Kafka does to the bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import fastavro
import numpy as np
import pytest

from service.errors import UsageError
from service.nexmark.events import (
    SCHEMA_IDS,
    EventSource,
    Format,
    NexmarkConfig,
    Times,
    Topics,
    Wire,
    schema_text,
)

START_MS = 1_750_000_000_000
RECORDS = ("person", "auction", "bid")
TIME_FIELDS = ("date_time", "expires")
SCHEMAS = {
    number: fastavro.parse_schema(json.loads(schema_text(name)))
    for name, number in SCHEMA_IDS.items()
}
WIRES = [
    Wire(format=form, times=times, topics=topics)
    for form, times, topics in product(Format, Times, Topics)
    if not (form is Format.JSON and topics is Topics.COMBINED)
]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def name_of(wire):
    return f"{wire.format}-{wire.times}-{wire.topics}"


def record_of(value, wire):
    """One message as its reader sees it, whole."""
    if wire.format is Format.JSON:
        text = value.decode()
        record = json.loads(text)
        assert json.dumps(record, separators=(",", ":")) == text, "compact, fields in order"
        return record
    assert value[0] == 0
    body = io.BytesIO(value[5:])
    schema = SCHEMAS[int.from_bytes(value[1:5], "big")]
    record = fastavro.schemaless_reader(body, schema, None)
    assert body.read() == b"", "no byte is left"
    return record


def bare(record, wire):
    """The event itself, times as numbers."""
    if wire.topics is Topics.TAGGED:
        assert list(record) == ["event_type", *RECORDS]
        (present,) = [name for name in RECORDS if record[name] is not None]
        assert RECORDS[record["event_type"]] == present
        record = record[present]
    if wire.times is Times.ISO:
        for field in TIME_FIELDS:
            if field in record:
                text = record[field]
                assert len(text) == 24
                assert text.endswith("Z")
                passed = datetime.fromisoformat(text) - EPOCH
                record = {**record, field: passed // timedelta(milliseconds=1)}
    return record


def expected_of(source, numbers, times):
    """Fields of each event by its place in `numbers`, from the columns."""
    kinds = source.kinds(numbers)
    out = {}
    for kind, columns in enumerate((source.persons, source.auctions, source.bids)):
        rows = columns(numbers, times).to_pylist()
        out |= dict(zip(np.flatnonzero(kinds == kind).tolist(), rows, strict=True))
    return out


@pytest.mark.parametrize("wire", WIRES, ids=name_of)
def test_every_form_reads_back_to_the_same_events(wire):
    source = EventSource(NexmarkConfig(seed=5).with_state(300), wire=wire)
    numbers = np.arange(7_000, 9_000)
    times = START_MS + numbers * 7
    run = source.encode(numbers, times, partitions=3)
    expected = expected_of(source, numbers, times)
    found = {
        int(place): bare(record_of(value, wire), wire)
        for place, value in zip(run.order, run.values(), strict=True)
    }
    assert found == expected


@pytest.mark.parametrize("wire", WIRES, ids=name_of)
def test_each_topic_has_its_own_kinds_and_all_of_its_partitions(wire):
    source = EventSource(NexmarkConfig(seed=5).with_state(300), wire=wire)
    numbers = np.arange(2_000)
    run = source.encode(numbers, START_MS + numbers, partitions=3)
    topics = wire.topic_names("market")
    assert len(run.partition_starts) == len(topics) * 3 + 1
    kinds = source.kinds(numbers)[run.order]
    for group, (first, end) in enumerate(pairwise(run.partition_starts.tolist())):
        allowed = {group // 3} if wire.topics is Topics.SEPARATE else {0, 1, 2}
        assert {*kinds[first:end].tolist()} == allowed
        assert (np.diff(run.order[first:end]) > 0).all()


def test_topics_are_named_as_the_issue_names_them():
    assert Wire(topics=Topics.SEPARATE).topic_names("p") == ("p-person", "p-auction", "p-bid")
    assert Wire(topics=Topics.TAGGED).topic_names("p") == ("p-events",)


def test_combined_json_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match="tagged or separate"):
        Wire(format=Format.JSON)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2000, 2, 29, 12, 0, 0, 1_000, tzinfo=UTC),
        datetime(2026, 11, 22, 5, 23, 11, 123_000, tzinfo=UTC),
        datetime(2100, 3, 1, tzinfo=UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
    ],
)
def test_iso_times_are_those_of_the_calendar(moment):
    wire = Wire(format=Format.JSON, times=Times.ISO, topics=Topics.SEPARATE)
    at = (moment - EPOCH) // timedelta(milliseconds=1)
    run = EventSource(NexmarkConfig(), wire=wire).encode(np.array([10]), np.array([at]), 1)
    said = json.loads(run.values()[0])["date_time"]
    assert said == f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".zfill(24)


def test_a_time_that_iso_cannot_say_is_refused():
    wire = Wire(times=Times.ISO)
    with pytest.raises(UsageError, match="years must be 1 to 9999"):
        EventSource(NexmarkConfig(), wire=wire).encode(np.array([10]), np.array([1 << 60]), 1)


@pytest.mark.parametrize("at", [0, 9, 10, 10**18, (1 << 63) - 1, -1, -(1 << 63), 10**18 - 1])
def test_numbers_of_any_size_are_written_in_full(at):
    wire = Wire(format=Format.JSON, topics=Topics.TAGGED)
    run = EventSource(NexmarkConfig(), wire=wire).encode(np.array([10]), np.array([at]), 1)
    assert json.loads(run.values()[0])["bid"]["date_time"] == at


_AVRO_ISO = Wire(times=Times.ISO, topics=Topics.SEPARATE)
_AVRO_TAGGED = Wire(topics=Topics.TAGGED)
_JSON_TAGGED = Wire(format=Format.JSON, topics=Topics.TAGGED)
_JSON_SEPARATE = Wire(format=Format.JSON, topics=Topics.SEPARATE)
_JSON_ISO = Wire(format=Format.JSON, times=Times.ISO, topics=Topics.TAGGED)
_DEFAULT = NexmarkConfig(seed=1)
_ODD = NexmarkConfig(
    seed=(1 << 63) - 1,
    person_proportion=2,
    auction_proportion=5,
    bid_proportion=13,
    hot_auction_ratio=7,
    hot_seller_ratio=1,
    hot_bidder_ratio=100,
    active_people=17,
    in_flight_auctions=3,
    first_person_id=0,
    first_auction_id=1 << 62,
    first_category_id=3,
    categories=9,
    auction_life_ms_max=1,
    person_lead=10,
    auction_lead=10,
    out_of_order_group_size=61,
)


@pytest.mark.parametrize(
    ("config", "wire", "first", "digest"),
    [
        (_DEFAULT, Wire(), 0, "b5bcc07d9c9c74e4e536b7ae0b4542c7"),
        (_DEFAULT, Wire(), 10**12, "12e9033f1331befb59fdee71adab4d3d"),
        (_ODD, Wire(), 0, "a9dddd2fbd84af6f2ee91715c29e9379"),
        (_ODD, _AVRO_ISO, 61 * 10**9, "4eb84ee8a0f7c1dc3aad9f409e937185"),
        (_DEFAULT, _AVRO_TAGGED, 12_345, "6fe1666fe52477678ba826560389e6c1"),
        (_DEFAULT, _JSON_TAGGED, 0, "2323ed56282ed072294938411c5a11ef"),
        (_ODD, _JSON_SEPARATE, 7_000, "a119a1129104ad085508314e2a3704c9"),
        (_ODD, _JSON_ISO, 61_000, "55c49b74b4fb142eb4733e16d3580179"),
    ],
)
def test_the_bytes_of_a_range_are_the_same_on_every_machine(config, wire, first, digest):
    source = EventSource(config, wire=wire)
    numbers = np.arange(first, first + 3_000)
    run = source.encode(numbers, START_MS + source.events(numbers) * 3, partitions=5)
    content = b"".join([*run.values(), *run.key_bytes(), run.offsets.astype("<i4").tobytes()])
    assert hashlib.sha256(content).hexdigest()[:32] == digest


def test_opening_bids_have_forms_too():
    wire = Wire(format=Format.JSON, topics=Topics.SEPARATE)
    config = NexmarkConfig(seed=2).with_state(1_000)
    source = EventSource(config, opening=True, wire=wire)
    numbers = np.arange(1_000)
    run = source.encode(numbers, np.full(1_000, START_MS), partitions=2)
    assert run.partition_starts.tolist()[:5] == [0] * 5, "all are bids"
    assert sorted(json.loads(value)["auction"] for value in run.values()) == [*range(1_000, 2_000)]
