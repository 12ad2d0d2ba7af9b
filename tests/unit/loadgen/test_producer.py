"""Open-loop sending against a client and a clock of our own: no waiting, every moment chosen.

Cannot catch: what the real client does with the messages (tests/integration/test_loadgen.py).
"""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.broker import LoadError
from loadgen.producer import Load, Sender, SendOptions
from loadgen.schedule import ConstantRate, Shard
from service.nexmark.events import EventSource, NexmarkConfig

START_US = 1_800_000_000_000_000
PARTITIONS = 3


class ManualClock:
    """Time that passes when someone sleeps or works."""

    def __init__(self):
        self.now_us = START_US - 10_000
        self.sleeps = []

    def wall_us(self):
        return self.now_us

    def cpu_us(self):
        return 0

    def sleep_us(self, duration_us):
        assert duration_us > 0
        self.sleeps.append(duration_us)
        self.now_us += duration_us


class MemoryClient:
    """Keeps what it is sent; takes `room` messages until polled; each send costs time."""

    def __init__(self, clock, *, send_us=0, room=None):
        self.clock = clock
        self.send_us = send_us
        self.room = room
        self.free = room
        self.sent = {partition: [] for partition in range(PARTITIONS)}
        self.arrivals = []
        self.stalls = {}
        self.unflushed = 0
        self.failure = None

    def send(self, topic, messages, partition):
        assert topic == "events"
        self.clock.now_us += self.send_us
        taken = len(messages) if self.free is None else min(len(messages), self.free)
        if self.free is not None:
            self.free -= taken
        self.sent[partition] += messages[:taken]
        self.arrivals += [self.clock.now_us] * taken
        self.unflushed += taken
        return taken

    def poll(self, seconds):
        if self.failure:
            raise LoadError(self.failure)
        self.clock.now_us += int(seconds * 1e6)
        self.clock.now_us += self.stalls.pop(len(self.arrivals), 0)
        self.free = self.room

    def flush(self, seconds):
        self.clock.now_us += int(seconds * 1e6)
        self.unflushed = 0

    def queued(self):
        return self.unflushed


def load_of(client, config=None, **options):
    options = SendOptions(partitions=PARTITIONS, **options)
    sender = Sender(client, ["events"], PARTITIONS)
    return Load(config or NexmarkConfig(seed=4), options, sender, client.clock)


def expected(config, numbers, times_us, *, opening=False):
    """The messages of these events per partition, encoded in one go."""
    run = EventSource(config, opening=opening).encode(
        np.array(numbers), np.array(times_us) // 1000, PARTITIONS
    )
    messages = [{"key": k, "value": v} for k, v in zip(run.key_bytes(), run.values())]
    starts = run.partition_starts
    return {p: messages[starts[p] : starts[p + 1]] for p in range(PARTITIONS)}


def never():
    return False


def test_every_event_is_sent_once_in_order_with_its_intended_time():
    client = MemoryClient(ManualClock())
    schedule = ConstantRate(START_US, 20_000, 5_000)
    printed = []
    summary = load_of(client).stream(schedule, printed.append, never)
    numbers = np.arange(5_000)
    assert client.sent == expected(NexmarkConfig(seed=4), numbers, schedule.times_us(numbers))
    assert summary["events"] == 5_000
    assert printed[0] == {
        "kind": "schedule",
        "start_us": START_US,
        "end_us": START_US + 249_950,
        "events": 5_000,
    }


def test_no_event_leaves_before_its_time_and_none_waits_longer_than_a_tick():
    client = MemoryClient(ManualClock())
    schedule = ConstantRate(START_US, 10_000, 2_000)
    load_of(client, tick_us=3_000).stream(schedule, lambda _: None, never)
    waits = np.array(client.arrivals) - schedule.times_us(np.arange(2_000))
    assert waits.min() >= 0
    assert waits.max() <= 3_000


def test_a_slow_schedule_is_slept_through_and_not_ticked_through():
    clock = ManualClock()
    load_of(MemoryClient(clock)).stream(ConstantRate(START_US, 10, 5), lambda _: None, never)
    assert len(clock.sleeps) <= 6


def test_on_schedule_nothing_is_late():
    client = MemoryClient(ManualClock(), send_us=500)
    summary = load_of(client, tick_us=3_000).stream(
        ConstantRate(START_US, 10_000, 3_000), lambda _: None, never
    )
    assert summary["late"] == 0
    assert 0 < summary["lateness_ms_max"] <= 3 + 3 * 0.5


def test_a_stall_makes_exactly_the_events_due_in_it_late_and_keeps_their_times():
    client = MemoryClient(ManualClock())
    # 1,000 events a second; once 100 are out, the client holds us up for 50 ms.
    client.stalls[100] = 50_000
    schedule = ConstantRate(START_US, 1_000, 300)
    load = load_of(client, tick_us=1_000)
    summary = load.stream(schedule, lambda _: None, never)
    waits = np.array(client.arrivals) - schedule.times_us(np.arange(300))
    assert summary["late"] == (waits > 10_000).sum() == 40
    assert summary["lateness_ms_max"] == waits.max() / 1000 == 50
    numbers = np.arange(300)
    assert client.sent == expected(NexmarkConfig(seed=4), numbers, schedule.times_us(numbers))


def test_a_full_queue_is_waited_for_and_nothing_is_dropped_or_reordered():
    client = MemoryClient(ManualClock(), room=7)
    schedule = ConstantRate(START_US, 10_000, 1_000)
    summary = load_of(client).stream(schedule, lambda _: None, never)
    numbers = np.arange(1_000)
    assert client.sent == expected(NexmarkConfig(seed=4), numbers, schedule.times_us(numbers))
    assert summary["queue_full_waits"] > 100
    # The queue lets 7 through per 2 ms: the schedule runs away and the summary says so.
    assert summary["late_fraction"] > 0.9
    assert summary["lateness_ms_max"] > 100


def test_a_start_in_the_past_is_reported_as_lateness():
    client = MemoryClient(ManualClock())
    schedule = ConstantRate(START_US - 1_010_000, 1_000, 10)
    summary = load_of(client).stream(schedule, lambda _: None, never)
    assert summary["late"] == 10
    assert summary["lateness_ms_max"] == 1_000


def test_a_line_of_progress_is_printed_each_second():
    client = MemoryClient(ManualClock())
    printed = []
    load_of(client).stream(ConstantRate(START_US, 1_000, 4_500), printed.append, never)
    lines = [line for line in printed if line["kind"] == "progress"]
    assert len(lines) == 5
    assert {line["events_per_second"] for line in lines[1:4]} <= set(range(990, 1_011))
    assert [line["kind"] for line in printed[-1:]] == ["summary"]


def test_shards_together_send_the_whole_schedule():
    schedule = ConstantRate(START_US, 10_000, 1_001)
    together = {partition: [] for partition in range(PARTITIONS)}
    for index in range(3):
        client = MemoryClient(ManualClock())
        load_of(client, shard=Shard(index, 3)).stream(schedule, lambda _: None, never)
        for partition, messages in client.sent.items():
            together[partition] += messages
    numbers = np.arange(1_001)
    whole = expected(NexmarkConfig(seed=4), numbers, schedule.times_us(numbers))
    for partition in range(PARTITIONS):
        assert sorted(map(str, together[partition])) == sorted(map(str, whole[partition]))


def test_the_load_phase_opens_each_auction_once_and_waits_for_delivery():
    client = MemoryClient(ManualClock())
    config = NexmarkConfig(seed=4).with_state(10_000)
    summary = load_of(client, config).open_auctions(lambda _: None, never)
    times = np.full(10_000, START_US - 10_000)
    assert client.sent == expected(config, np.arange(10_000), times, opening=True)
    assert summary["events"] == 10_000
    assert client.unflushed == 0


def test_a_request_to_stop_ends_the_stream_and_delivers_what_was_sent():
    client = MemoryClient(ManualClock())
    summary = load_of(client).stream(
        ConstantRate(START_US, 1_000, 10**9), lambda _: None, lambda: len(client.arrivals) > 50
    )
    assert 50 < summary["events"] < 100
    assert client.unflushed == 0


def test_a_failed_delivery_ends_the_load():
    client = MemoryClient(ManualClock())
    client.failure = "out of luck"
    with pytest.raises(LoadError, match="out of luck"):
        load_of(client).stream(ConstantRate(START_US, 1_000, 10), lambda _: None, never)


def test_an_empty_schedule_is_a_summary_of_nothing():
    summary = load_of(MemoryClient(ManualClock())).stream(
        ConstantRate(START_US, 1_000, 0), lambda _: None, never
    )
    assert summary["events"] == 0
    assert summary["late_fraction"] == 0


def test_out_of_order_events_leave_on_schedule_with_their_own_times():
    client = MemoryClient(ManualClock())
    config = NexmarkConfig(seed=4, out_of_order_group_size=100)
    schedule = ConstantRate(START_US, 10_000, 1_000)
    load_of(client, config).stream(schedule, lambda _: None, never)
    numbers = np.arange(1_000)
    events = EventSource(config).events(numbers)
    assert client.sent == expected(config, numbers, schedule.times_us(events))
    waits = np.array(client.arrivals) - schedule.times_us(numbers)
    assert waits.min() >= 0
