"""What HTTP tells of a process: what its last heartbeat published, and the age of its loop."""

from __future__ import annotations

import io
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.config import load_config
from service.control_topics import AppTopics, RecordWriter
from service.heartbeat import Heartbeat
from service.ids import Role, Slot
from service.log import Log
from service.migration.records import MemberDetails, MemberState, decode_member


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ns = 0

    def monotonic_ns(self) -> int:
        return self.ns

    def wall_us(self) -> int:
        return self.ns // 1000


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def heartbeat(clock):
    """Of worker-0 of app `shop`, with a broker that is not there."""
    topics = AppTopics("shop")
    records = RecordWriter("127.0.0.1:1", "test")
    made = Heartbeat(Slot.parse("worker-0"), 7, topics, records, load_config(), 0, clock)
    yield made
    made.close()


def get(heartbeat, path):
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(f"http://{heartbeat.http}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def beat(heartbeat, state=MemberState.RUNNING, reading=None, ready=True):
    heartbeat.beat(state, 1, MemberDetails(), reading or {}, ready=ready)


def test_a_process_is_ready_from_the_beat_that_says_so_and_until_one_that_does_not(heartbeat):
    assert get(heartbeat, "/readyz") == (503, "starting\n")
    beat(heartbeat)
    assert get(heartbeat, "/readyz") == (200, "running\n")
    beat(heartbeat, MemberState.STOPPED, ready=False)
    assert get(heartbeat, "/readyz") == (503, "stopped\n")


def test_health_is_the_age_of_the_last_turn(heartbeat, clock):
    assert get(heartbeat, "/healthz")[0] == 200
    clock.ns = 11_000_000_000
    assert get(heartbeat, "/healthz") == (503, "the loop turned 11.0 s ago\n")
    heartbeat.turn(clock.ns)
    assert get(heartbeat, "/healthz")[0] == 200


def test_metrics_tell_what_was_published_with_their_labels_and_the_live_age(heartbeat, clock):
    reading = {
        "megaphone_state_rows": {"stats": 5},
        "megaphone_ingest_rejected_records_total": {"truncated": 2, "empty": 1},
    }
    beat(heartbeat, reading=reading)
    clock.ns = 2_000_000_000
    status, text = get(heartbeat, "/metrics")
    assert status == 200
    found = {
        (sample.name, sample.labels.get("reason")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if {"app": "shop", "slot": "worker-0"}.items() <= sample.labels.items()
    }
    assert found.pop(("megaphone_process_resident_bytes", None)) > 1 << 20
    assert found.pop(("megaphone_process_cpu_seconds_total", None)) > 0
    assert found.pop(("megaphone_process_start_timestamp_seconds", None)) > 1_600_000_000
    assert found == {
        ("megaphone_process_state_info", None): 1,
        ("megaphone_process_build_info", None): 1,
        ("megaphone_state_rows", None): 5,
        ("megaphone_ingest_rejected_records_total", "truncated"): 2,
        ("megaphone_ingest_rejected_records_total", "empty"): 1,
        ("megaphone_process_loop_age_seconds", None): 2,
    }


def test_beats_are_due_at_their_interval(heartbeat, clock):
    every = int(load_config().control.heartbeat_ms * 1e6)
    assert heartbeat.turn(0)
    assert not heartbeat.turn(every - 1)
    assert heartbeat.turn(every)


def test_a_last_word_that_nobody_hears_is_logged(heartbeat, monkeypatch):
    monkeypatch.setattr("service.heartbeat._LAST_WORD_S", 0.01)
    stream = io.StringIO()
    heartbeat.last_word("out of luck", None, Log("worker-0", stream))
    assert "farewell.unheard" in stream.getvalue()
    assert get(heartbeat, "/readyz") == (503, "failed\n")


class Written:
    """Stands where a `RecordWriter` does and keeps what is written."""

    def __init__(self) -> None:
        self.records = []

    def write(self, topic, key, value):
        state = None if value is None else decode_member(value).state
        self.records.append((key, state))

    def poll(self):
        """Nothing fails."""

    def flush(self, timeout_s):
        """Nothing waits."""


@pytest.fixture
def seeker(clock):
    """The heartbeat of boot 7 of a worker that takes any slot, and what it writes."""
    written = Written()
    slot = Slot.any_of(Role.WORKER)
    made = Heartbeat(slot, 7, AppTopics("shop"), written, load_config(), 0, clock)
    yield made, written.records
    made.close()


def test_who_takes_any_slot_has_a_key_of_its_own_until_it_has_one(seeker):
    heartbeat, records = seeker
    beat(heartbeat, MemberState.WAITING, ready=False)
    heartbeat.plays(Slot.parse("worker-3"))
    beat(heartbeat, MemberState.STARTING, {"megaphone_process_loop_age_seconds": 0})
    beat(heartbeat, MemberState.STOPPED)
    assert records == [
        ("worker-any.7", MemberState.WAITING),
        ("worker-any.7", None),
        ("worker-3", MemberState.STARTING),
        ("worker-3", MemberState.STOPPED),
    ]
    assert 'slot="worker-3"' in get(heartbeat, "/metrics")[1]


@pytest.mark.parametrize("state", [MemberState.STOPPED, MemberState.FAILED])
def test_who_ends_without_a_slot_says_so_and_leaves_nothing_behind(seeker, state):
    heartbeat, records = seeker
    beat(heartbeat, state, ready=False)
    assert records == [("worker-any.7", state), ("worker-any.7", None)]


def test_who_runs_but_is_behind_says_how_far(heartbeat):
    behind = "its oldest open epoch is 12.0 s behind"
    heartbeat.beat(MemberState.RUNNING, 1, MemberDetails(), {}, ready=False, behind=behind)
    assert get(heartbeat, "/readyz") == (503, f"running, {behind}\n")
