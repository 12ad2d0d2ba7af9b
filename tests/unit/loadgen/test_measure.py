"""Latency at the output: decoding against fastavro, windows against a clock of our own.

Cannot catch: how the real client hands messages over (tests/integration/test_loadgen.py).
"""

from __future__ import annotations

import io
import json
from fractions import Fraction

import fastavro
import numpy as np
import pytest

from loadgen.dates import EventDates
from loadgen.fields import JsonField
from loadgen.histogram import Histogram
from loadgen.measure import LatencyMeter, auction_bids, closed_by, run
from loadgen.payloads import NOTHING, Payloads
from loadgen.schedule import ConstantRate
from service.nexmark.events import schema_text

SCHEMA = fastavro.parse_schema(json.loads(schema_text("auction_bids")))
START_US = 1_800_000_000_000_000
UNREADABLE = np.iinfo(np.int64).min


def payload(oldest, auction=2**40, total=-7):
    body = io.BytesIO()
    record = {"auction": auction, "bids": 3, "total": total, "highest": 9, "oldest": oldest}
    fastavro.schemaless_writer(body, SCHEMA, record)
    return b"\0\0\0\0\x04" + body.getvalue()


class ScriptedConsumer:
    """Hands out the prepared payloads, one fetch after another, at the prepared times."""

    def __init__(self, script):
        self.script = script
        self.now_us = START_US

    def wall_us(self):
        return self.now_us

    def cpu_us(self):
        return 0

    def sleep_us(self, duration_us):
        self.now_us += duration_us

    def fetch(self, seconds):
        if not self.script:
            self.now_us += int(seconds * 1e6)
            return NOTHING
        after_ms, payloads = self.script.pop(0)
        self.now_us += after_ms * 1000
        return Payloads.of(payloads)

    def behind(self):
        return bool(self.script)

    def close(self):
        pass


def test_the_kernel_reads_what_fastavro_wrote():
    values = [0, -1, 1, 63, 64, 2**31, -(2**40), 2**63 - 1, START_US // 1000]
    assert (
        auction_bids().values(Payloads.of([payload(v, total=v) for v in values])).tolist() == values
    )


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\0",
        b"\0\0\0\0\x04",
        payload(5)[:-1],
        payload(5) + b"\0",
        b"\x01" + payload(5)[1:],
        payload(5)[:4] + b"\x03" + payload(5)[5:],
        b"\0\0\0\0\x04" + b"\xff" * 40,
    ],
)
def test_a_payload_that_is_no_such_record_costs_only_itself(bad):
    assert auction_bids().values(Payloads.of([payload(1), bad, payload(2)])).tolist() == [
        1,
        UNREADABLE,
        2,
    ]
    meter = LatencyMeter(START_US)
    meter.observe(Payloads.of([payload(1), bad, payload(2)]), START_US)
    assert (meter.count, meter.unreadable) == (2, 1)


def test_latency_runs_from_the_intended_time_to_consumption():
    meter = LatencyMeter(START_US)
    now_ms = START_US // 1000
    meter.observe(Payloads.of([payload(now_ms - 20), payload(now_ms - 5)]), START_US + 400)
    (window,) = meter.final()["consumed"]
    histogram = Histogram.of_document(window["histogram"])
    assert (histogram.min_us, histogram.max_us) == (5_400, 20_400)
    assert window["max_ms"] == 20.4


def test_consumed_windows_are_printed_once_in_order_empty_ones_too():
    ms = START_US // 1000
    script = [(10, [payload(ms)]), (600, [payload(ms + 100)] * 3), (300, [payload(ms + 900)])]
    consumer = ScriptedConsumer(script)
    printed = []
    final = run(
        consumer,
        LatencyMeter(START_US),
        consumer,
        printed.append,
        lambda: not consumer.script,
    )
    assert [(w["t_us"] - START_US) // 1000 for w in printed] == [0, 250, 500]
    assert [w["count"] for w in printed] == [1, 0, 3]
    assert [w["count"] for w in final["consumed"]] == [1, 0, 3, 1]
    assert final["count"] == 5


def test_intended_windows_show_who_had_to_wait():
    ms = START_US // 1000
    meter = LatencyMeter(START_US)
    # Due in three windows, all consumed together after a stall.
    meter.observe(Payloads.of([payload(ms + t) for t in (0, 10, 260, 510)]), START_US + 700_000)
    found = {w["t_us"] - START_US: w["max_ms"] for w in meter.final()["intended"]}
    assert found == {0: 700.0, 250_000: 440.0, 500_000: 190.0}


def test_both_timelines_hold_every_record():
    rng = np.random.default_rng(1)
    meter = LatencyMeter(START_US)
    now = START_US
    for _ in range(40):
        now += int(rng.integers(1, 400_000))
        list(meter.closed_windows(now))
        meter.observe(
            Payloads.of([payload(now // 1000 - int(d)) for d in rng.integers(0, 9_000, 20)]), now
        )
    final = meter.final()
    merged = [
        Histogram.merged(Histogram.of_document(w["histogram"]) for w in final[timeline])
        for timeline in ("consumed", "intended")
    ]
    assert merged[0] == merged[1]
    assert merged[0].count == final["count"] == 800


def test_stopping_drains_what_the_topic_holds():
    ms = START_US // 1000
    consumer = ScriptedConsumer([(10, [payload(ms)]), (10, [payload(ms)]), (10, [payload(ms)])])
    final = run(consumer, LatencyMeter(START_US), consumer, lambda _: None, lambda: True)
    assert final["count"] == 3


def test_draining_a_topic_that_never_ends_is_bounded():
    class Endless(ScriptedConsumer):
        def fetch(self, seconds):
            self.now_us += 40_000
            return Payloads.of([payload(self.now_us // 1000)])

        def behind(self):
            return True

    consumer = Endless([])
    run(consumer, LatencyMeter(START_US), consumer, lambda _: None, lambda: True)
    assert consumer.now_us - START_US < 11_000_000


def test_draining_a_topic_that_falls_silent_is_bounded():
    class Silent(ScriptedConsumer):
        def behind(self):
            return True

    consumer = Silent([])
    run(consumer, LatencyMeter(START_US), consumer, lambda _: None, lambda: True)
    assert consumer.now_us - START_US < 2_000_000


def window_meter(*, group=1, bound_ms=0):
    """A meter of 100 ms windows over 1,000 events a second for a second."""
    schedule = ConstantRate(START_US, 1_000, 1_000)
    dates = EventDates.grouped(schedule, START_US, Fraction(1), group)
    intended = closed_by(dates, after_ms=100 + bound_ms)
    return LatencyMeter(START_US, reader=JsonField("window_start"), intended=intended)


def result(after_ms):
    start_ms = START_US // 1000 + after_ms
    return b'{"auction":1,"num":2,"window_start":%d}' % start_ms


def latency_ms(meter):
    (window,) = meter.final()["consumed"]
    return window["max_ms"]


def test_a_windowed_result_counts_from_the_event_that_let_the_watermark_pass():
    meter = window_meter(bound_ms=30)
    # The window [200, 300) closes when the event dated 330 comes: 5 ms ago.
    meter.observe(Payloads.of([result(200)]), START_US + 335_000)
    assert latency_ms(meter) == 5


def test_out_of_order_the_first_sending_of_a_late_enough_date_counts():
    meter = window_meter(group=100)
    # The event dated 300 begins a group; the first of the group sent is itself.
    meter.observe(Payloads.of([result(200)]), START_US + 300_000)
    assert latency_ms(meter) == 0
    meter = window_meter(group=100)
    # 350 or more is sent first as 353: place 1 of the group (953 mod 100 = 53).
    meter.observe(Payloads.of([result(250)]), START_US + 350_000)
    assert latency_ms(meter) == 49


def test_windows_that_the_end_closed_are_counted_and_not_measured():
    meter = window_meter(bound_ms=30)
    meter.observe(Payloads.of([result(0), result(880), b"{}"]), START_US + 200_000)
    final = meter.final()
    assert (final["count"], final["closed_by_end"], final["unreadable"]) == (1, 1, 1)
