"""What an event costs the load generator, and a result the meter: processor time, by part.

Flow: `python -m demo.generator_figures` -> kernels alone, then both commands on a real Kafka, with
either client in turn within each run -> BenchDocument on standard output, logs on standard error.
Exit status 0, 3 if a figure was missed.

Invariants
  GF1  Times are processor time of the whole process, all threads, so that a busy neighbour counts
       little; a ratio is taken inside each run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import Annotated

import numpy as np
import typer

from loadgen.broker import ensure_topic
from loadgen.clock import SystemClock
from loadgen.direct import DirectProducer
from loadgen.options import Client
from loadgen.payloads import Payloads
from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.bench.stall import StallProbe
from service.broker.lookup import open_broker
from service.nexmark.events import (
    BLOCK,
    EncodedRun,
    EventSource,
    Format,
    NexmarkConfig,
    Topics,
    Wire,
)

#: Bounds of docs/LOADGEN.md.
PRODUCED_PER_CPU_SECOND_MIN = 500_000
LATE_SHARE_MAX = 0.01
#: Events a second at which lateness is judged: the highest rate that a job has a bound at.
RATE = 250_000
PARTITIONS = 4
_STATE_KEYS = 2_000_000
RUN_EVENTS = 1_000
_START_MS = 1_750_000_000_000
_WIRES = {
    "avro": Wire(),
    "json, tagged": Wire(format=Format.JSON, topics=Topics.TAGGED),
}
_Values = dict[str, list[float]]


def main(
    events: Annotated[int, typer.Option(min=100_000, help="events of each part")] = 2_000_000,
    rate: Annotated[int, typer.Option(help="events per second of the paced part")] = RATE,
    runs: Annotated[int, typer.Option(min=1, help="how often each part runs")] = 5,
    output: Annotated[str, typer.Option(help="text or json")] = "text",
) -> None:
    """Measure encoding alone, producing at full speed and paced, and measuring, per event."""
    values: _Values = {}
    with open_broker() as broker, StallProbe() as probe:
        for number in range(runs):
            print(f"run {number + 1} of {runs}", file=sys.stderr)
            _encode(values, events)
            for client in Client:
                _produce(values, broker.bootstrap_servers, client, events)
                _pace(values, broker.bootstrap_servers, client, rate, events / rate)
                _measure(values, broker.bootstrap_servers, client, rate, events)
    document = BenchDocument(
        "load-generator",
        commit(),
        {**machine(), "stall_ms": probe.stall_ms},
        {"events": events, "rate": rate, "runs": runs, "partitions": PARTITIONS},
        [figure_of(name, each) for name, each in values.items()],
    )
    print(document.json() if output == "json" else document.text())
    raise typer.Exit(document.exit_status)


def figure_of(name: str, values: list[float]) -> Figure:
    """The figure of one part over all runs, held to its bound."""
    if name.startswith("produced"):
        unit = "events per second of processor time"
        return Figure.of(name, unit, values, at_least=PRODUCED_PER_CPU_SECOND_MIN)
    if name.startswith("late"):
        return Figure.of(name, "of events", values, at_most=LATE_SHARE_MAX)
    return Figure.of(name, "us", values)


def _encode(values: _Values, events: int) -> None:
    clock = SystemClock()
    for name, wire in _WIRES.items():
        source = EventSource(NexmarkConfig().with_state(_STATE_KEYS), wire=wire)
        numbers = np.arange(RUN_EVENTS)
        source.encode(numbers, numbers + _START_MS, PARTITIONS)
        before = clock.cpu_us()
        for _ in range(events // RUN_EVENTS):
            source.encode(numbers, numbers + _START_MS, PARTITIONS)
            numbers += RUN_EVENTS
        spent = clock.cpu_us() - before
        _put(values, f"encoding an event, {name}", spent / events)


def _produce(values: _Values, servers: str, client: Client, events: int) -> None:
    """At full speed: everything is due at once, in one run of the generator after the other."""
    start_us = SystemClock().wall_us() - 10_000_000
    lasting = ("--rate", "10000000", "--seconds", str(events / 10_000_000))
    summary = _run(servers, client, *lasting, "--start-at", str(start_us))
    cpu_us = float(summary["cpu_us_per_event"])
    _put(values, f"produced, {client}", 1e6 / cpu_us)


def _pace(values: _Values, servers: str, client: Client, rate: int, seconds: float) -> None:
    summary = _run(servers, client, "--rate", str(rate), "--seconds", str(seconds))
    _put(values, f"an event at {rate:,}/s, {client}", float(summary["cpu_us_per_event"]))
    _put(values, f"late at {rate:,}/s, {client}", float(summary["late_fraction"]))


def _run(servers: str, client: Client, *arguments: str) -> dict[str, float]:
    topic = f"generator-figures-{uuid.uuid4().hex[:12]}"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "loadgen", "run", "--bootstrap-servers", servers),
            *("--topic", topic, "--client", client, "--live-only"),
            *("--state-keys", str(_STATE_KEYS), *arguments),
        ],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    summary: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return summary


def _measure(values: _Values, servers: str, client: Client, rate: int, events: int) -> None:
    """Results of one auction at a rate, beside a meter."""
    topic = f"generator-figures-{uuid.uuid4().hex[:12]}"
    ensure_topic(servers, topic, PARTITIONS)
    meter = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadgen", "measure", "--bootstrap-servers", servers),
            *("--topic", topic, "--client", client, "--stop-on-stdin-close"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert meter.stdout is not None, "it is a pipe"
    meter.stdout.readline()
    clock = SystemClock()
    producer = DirectProducer(servers, (topic,), PARTITIONS, clock)
    _send_results(producer, clock, rate, events)
    producer.close()
    final = json.loads(meter.communicate()[0].splitlines()[-1])
    assert final["count"] == events // RUN_EVENTS * RUN_EVENTS, "every result was measured"
    _put(values, f"measuring a result at {rate:,}/s, {client}", final["cpu_us"] / final["count"])


def _send_results(producer: DirectProducer, clock: SystemClock, rate: int, events: int) -> None:
    starts = np.arange(PARTITIONS + 1) * (RUN_EVENTS // PARTITIONS)
    begun = clock.wall_us()
    for number in range(events // RUN_EVENTS):
        producer.send(results_at(clock.wall_us() // 1000, starts))
        producer.poll(0)
        rest_us = begun + round((number + 1) * RUN_EVENTS * 1e6 / rate) - clock.wall_us()
        if rest_us > 0:
            clock.sleep_us(rest_us)
    while producer.queued():
        producer.flush(1.0)


def results_at(now_ms: int, starts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> EncodedRun:
    """Messages of auction_bids: an auction, three numbers and `oldest`."""
    zigzag = [_varint(number) for number in (1_234_567, 17, 123_456_789, 1_234_567, now_ms)]
    message = bytes([0, 0, 0, 0, 4]) + b"".join(zigzag)
    packed = Payloads.of([message] * RUN_EVENTS)
    offsets = np.append(packed.starts, packed.ends[-1:]).astype(np.int32)
    numbers = np.arange(RUN_EVENTS, dtype=np.int64)
    data = np.append(packed.data, np.zeros(BLOCK, dtype=np.uint8))
    return EncodedRun(data, offsets, numbers, starts.astype(np.int64), numbers)


def _varint(value: int) -> bytes:
    rest, out = value << 1, []
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def _put(values: _Values, name: str, value: float) -> None:
    values.setdefault(name, []).append(value)


if __name__ == "__main__":
    typer.run(main)
