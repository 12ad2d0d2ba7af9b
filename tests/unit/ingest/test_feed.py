"""One source's reading: portions, positions, what is skipped, what waits."""

from __future__ import annotations

import pytest

from service.dataflow.event_time import Watermarks
from service.ingest import feed as feeds
from service.ingest.dead_letter import DeadLetters
from service.ingest.decode import RecordDecoder
from service.ingest.feed import SourceFeed
from service.ingest.registry import FolderRegistry
from service.ingest.watermarks import Estimator
from tests.fakes.kafka import FakeBroker, FakePartitions
from tests.unit.ingest.records import record_schema, value_of, write_schemas

_BID = record_schema("bid", {"auction": "long"})
_LATER = record_schema("bid", {"auction": "long", "more": "long"})
_START = {("events", 0): 0, ("events", 1): 0}


class _Letters:
    """Keeps letters."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.headers: list[dict[str, str]] = []

    def produce(self, topic, value, key, *, headers, on_delivery) -> None:
        self.values.append(value)
        self.headers.append({name: text.decode() for name, text in headers})

    def poll(self, timeout: float) -> int:
        return 0


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker({"events": 2})


@pytest.fixture
def letters() -> _Letters:
    return _Letters()


@pytest.fixture
def folder(tmp_path):
    return write_schemas(tmp_path, {1: _BID})


@pytest.fixture
def feed(broker, folder, letters, monkeypatch) -> SourceFeed:
    monkeypatch.setattr(feeds, "PORTION_RECORDS", 10)
    decoder = RecordDecoder(FolderRegistry(folder), "bid", ["auction"])
    return SourceFeed(FakePartitions(broker), decoder, DeadLetters(letters), _START, until_end=True)


def _publish(broker: FakeBroker, first: int, last: int, partition: int = 0) -> None:
    for number in range(first, last):
        broker.publish("events", partition, value_of(1, _BID, {"auction": number}))


def _numbers(read) -> list[int]:
    return read.rows.column("auction").to_pylist()


def test_nothing_to_read_gives_no_rows(feed):
    assert feed.read(100) == (None, False)


def test_a_read_takes_several_portions_in_order_and_says_whether_all_were_there(feed, broker):
    _publish(broker, 0, 35)
    read, full = feed.read(30)
    assert (_numbers(read), full) == (list(range(30)), True)
    assert read.positions == {("events", 0): 30}
    read, full = feed.read(30)
    assert (_numbers(read), full) == ([30, 31, 32, 33, 34], False)
    assert feed.records_in == 35
    sizes = (len(value_of(1, _BID, {"auction": number})) for number in range(35))
    assert feed.bytes_in == sum(sizes)


def test_a_read_never_takes_more_than_was_asked_for(feed, broker):
    _publish(broker, 0, 50)
    for size in (1, 9, 10, 11, 19):
        read, full = feed.read(size)
        assert (read.rows.num_rows, full) == (size, True)


def test_positions_of_all_portions_are_told(feed, broker):
    _publish(broker, 0, 12)
    _publish(broker, 12, 16, partition=1)
    read, _ = feed.read(100)
    assert sorted(_numbers(read)) == list(range(16))
    assert read.positions == {("events", 0): 12, ("events", 1): 4}


def test_a_bad_record_in_a_later_portion_costs_only_itself(feed, broker, letters):
    _publish(broker, 0, 15)
    broker.publish("events", 0, b"\x00\x00\x00\x00\x01")
    _publish(broker, 15, 18)
    read, _ = feed.read(100)
    assert _numbers(read) == list(range(18))
    assert (feed.records_in, feed.rejected, letters.values) == (19, 1, [b"\x00\x00\x00\x00\x01"])
    assert read.positions == {("events", 0): 19}


def test_a_batch_that_cannot_be_unpacked_is_one_letter_and_reading_goes_on(feed, broker, letters):
    _publish(broker, 0, 3)
    broker.publish_unreadable("events", 0, [b"a", b"b"])
    assert _numbers(feed.read(100)[0]) == [0, 1, 2]
    read, _ = feed.read(100)
    assert (_numbers(read), read.positions) == ([], {("events", 0): 5})
    assert letters.values == [None]
    (headers,) = letters.headers
    assert (headers["topic"], headers["partition"], headers["offset"]) == ("events", "0", "3")
    assert headers["error"].startswith("unreadable: offsets 3 to 4 are a batch ")
    assert "cut" in headers
    assert (feed.rejected, feed.rejected_by_reason()) == (1, {"unreadable": 1})
    _publish(broker, 5, 6)
    assert _numbers(feed.read(100)[0]) == [5]


def test_the_letter_of_such_a_batch_is_one_sources(broker, folder, letters):
    broker.publish_unreadable("events", 0, [b"a"])
    decoder = RecordDecoder(FolderRegistry(folder), "bid", ["auction"])
    other = SourceFeed(
        FakePartitions(broker),
        decoder,
        DeadLetters(letters),
        _START,
        until_end=True,
        labels={"events": "events of another"},
    )
    read, _ = other.read(100)
    assert read.positions == {("events of another", 0): 1}
    assert (letters.values, other.rejected) == ([], 0)


def test_a_portion_that_waits_for_its_schema_holds_back_only_what_comes_after_it(
    feed, broker, folder
):
    _publish(broker, 0, 10)
    broker.publish("events", 0, value_of(2, _LATER, {"auction": 10, "more": 1}))
    _publish(broker, 11, 13)
    (folder / "2.avsc").mkdir()  # A registry that fails, rather than one that does not know it.
    read, full = feed.read(100)
    assert (_numbers(read), full) == (list(range(10)), False)
    assert read.positions == {("events", 0): 10}
    assert feed.registry_problem is not None
    assert feed.read(100) == (None, False)
    assert not feed.drained
    (folder / "2.avsc").rmdir()
    write_schemas(folder, {2: _LATER})
    read, _ = feed.read(100)
    assert _numbers(read) == [10, 11, 12]
    assert read.positions == {("events", 0): 13}
    assert feed.registry_problem is None


def test_of_a_topic_that_another_source_reads_only_what_is_of_the_type_is_rejected(
    broker, folder, letters
):
    decoder = RecordDecoder(FolderRegistry(folder), "bid", ["auction"])
    feed = SourceFeed(
        FakePartitions(broker),
        decoder,
        DeadLetters(letters),
        _START,
        until_end=True,
        labels={"events": "events@bids"},
    )
    _publish(broker, 0, 3)
    broker.publish("events", 0, b"no header")
    broker.publish("events", 0, b"\x00\x00\x00\x00\x01")
    read, _ = feed.read(100)
    assert read.positions == {("events@bids", 0): 5}
    assert (feed.records_in, feed.skipped, feed.rejected) == (5, 1, 1)
    assert letters.values == [b"\x00\x00\x00\x00\x01"]
    assert feed.at_end(("events@bids", 0))
    feed.commit_advisory({("events@bids", 0): 5})
    assert broker.committed == {"fake": {}}


def test_event_time_is_estimated_by_partition(broker, folder, letters):
    decoder = RecordDecoder(FolderRegistry(folder), "bid", ["auction"])
    marks = Watermarks("auction", out_of_orderness="2ms")
    feed = SourceFeed(
        FakePartitions(broker),
        decoder,
        DeadLetters(letters),
        _START,
        until_end=False,
        estimator=Estimator("bids", marks, decoder.arrow_schema),
    )
    _publish(broker, 0, 12)
    _publish(broker, 40, 43, partition=1)
    broker.publish("events", 1, b"bad")
    read, _ = feed.read(100)
    assert read.watermarks == {("events", 0): 9, ("events", 1): 40}
    assert feed.at_end(("events", 0))
    _publish(broker, 5, 6)
    assert not feed.at_end(("events", 0))
    read, _ = feed.read(100)
    assert read.watermarks == {("events", 0): 3}
    feed.hold()
    assert not feed.at_end(("events", 0))
