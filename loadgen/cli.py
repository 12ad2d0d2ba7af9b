"""The command `nexmark-loadgen`: make load, measure latency, draw a measurement.

stdout carries JSON, one document per line, and nothing else; logs and errors go to stderr.
Exit status: 0 done, 1 the load could not be delivered or measured, 2 usage or no broker.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from loadgen import broker, measure, report
from loadgen.clock import SystemClock
from loadgen.direct import DirectConsumer, DirectProducer
from loadgen.payloads import Payloads
from loadgen.producer import Load, RunSender, Sender, SendOptions
from loadgen.schedule import US_PER_SECOND, ConstantRate, Shard
from service.nexmark.events import KNOB_MAX, KnobError, NexmarkConfig

# Between the last preparation and the first event, unless --start-at is given: an idempotent client
# has its producer id about half a second after it connects, and sends nothing before.
_LEAD_US = 1_500_000
_TOPIC_SECONDS_MAX = 10

app = typer.Typer(
    help="NEXMark load on Kafka, open loop, and its end-to-end latency.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Servers = Annotated[
    str, typer.Option("--bootstrap-servers", envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port,…")
]


Topic = Annotated[str, typer.Option("--topic")]


class Client(StrEnum):
    """What talks to Kafka."""

    LIBRDKAFKA = "librdkafka"
    DIRECT = "direct"


ClientOption = Annotated[
    Client, typer.Option(help="direct: no library, a fifth of the processor time, no retries")
]


@app.callback()
def _root() -> None:
    """NEXMark load on Kafka, open loop, and its end-to-end latency."""


@app.command()
def run(
    bootstrap_servers: Servers,
    topic: Topic = "nexmark-events",
    rate: Annotated[int, typer.Option(help="events per second", min=1, max=10_000_000)] = 50_000,
    seconds: Annotated[float, typer.Option(help="length of the stream", min=0, max=800_000)] = 30,
    state_keys: Annotated[
        int, typer.Option(help="auctions opened before the stream, all in flight", min=0)
    ] = 0,
    partitions: Annotated[int, typer.Option(min=1)] = 4,
    seed: int = 0,
    load_only: Annotated[bool, typer.Option("--load-only", help="opening bids only")] = False,
    live_only: Annotated[bool, typer.Option("--live-only", help="stream only")] = False,
    start_at: Annotated[int | None, typer.Option(help="time of event 0, epoch µs")] = None,
    shard: Annotated[str, typer.Option(help="I/N: this process of N on one schedule")] = "0/1",
    tick_ms: Annotated[float, typer.Option(help="time between wake-ups", min=0.1)] = 5,
    late_ms: Annotated[float, typer.Option(help="later than this counts as late", min=0)] = 10,
    linger_ms: Annotated[float, typer.Option(help="of the Kafka producer", min=0)] = 1,
    client: ClientOption = Client.LIBRDKAFKA,
    in_flight_auctions: Annotated[
        int | None, typer.Option(help="default: --state-keys, or 100")
    ] = None,
    hot_auction_ratio: Annotated[int, typer.Option(help="R: (R-1)/R of bids are hot")] = 2,
    hot_bidder_ratio: int = 4,
    hot_seller_ratio: int = 4,
    active_people: int = 1000,
    first_person_id: int = 1000,
    first_auction_id: int = 1000,
    out_of_order_group_size: int = 1,
) -> None:
    """Send opening bids as fast as possible, then the stream on its schedule.

    Prints a JSON line per second and one at the end of each phase.
    """
    if load_only and live_only:
        raise typer.BadParameter("--load-only and --live-only exclude each other")
    base = NexmarkConfig(
        seed=seed,
        hot_auction_ratio=hot_auction_ratio,
        hot_bidder_ratio=hot_bidder_ratio,
        hot_seller_ratio=hot_seller_ratio,
        active_people=active_people,
        first_person_id=first_person_id,
        first_auction_id=first_auction_id,
        out_of_order_group_size=out_of_order_group_size,
    )
    config = _sized(base, state_keys, in_flight_auctions, rate)
    options = SendOptions(
        partitions=partitions,
        tick_us=round(tick_ms * 1000),
        late_us=round(late_ms * 1000),
        shard=_shard(shard),
    )
    # Nothing here makes cycles, and a collection would walk the messages of every run.
    gc.disable()
    broker.ensure_topic(bootstrap_servers, topic, partitions)
    clock = SystemClock()
    sender: RunSender
    if client is Client.DIRECT:
        sender = DirectProducer(bootstrap_servers, (topic,), partitions, clock)
    else:
        producer = broker.KafkaProducer(bootstrap_servers, linger_ms)
        producer.connect(topic)
        sender = Sender(producer, [topic], partitions)
    load = Load(config, options, sender, clock)
    load.warm_up()
    stop = _stop_on_signal()
    if not live_only:
        load.open_auctions(_emit, stop)
    if not load_only:
        start_us = clock.wall_us() + _LEAD_US if start_at is None else start_at
        load.stream(ConstantRate(start_us, rate, round(rate * seconds)), _emit, stop)
    sender.close()


@app.command(name="measure")
def measure_latency(
    bootstrap_servers: Servers,
    topic: Topic,
    start: Annotated[
        str, typer.Option("--from", help='"end", "beginning" or {"partition": offset, …}')
    ] = "end",
    window_ms: Annotated[int, typer.Option(min=1)] = measure.WINDOW_US // 1000,
    stop_on_stdin_close: Annotated[
        bool, typer.Option("--stop-on-stdin-close", help="stop when stdin ends, as on SIGTERM")
    ] = False,
    client: ClientOption = Client.LIBRDKAFKA,
) -> None:
    """Measure latency at a consumer of the output topic until told to stop.

    Prints a JSON line when ready, one per window, and a final one.
    """
    offsets = _offsets(bootstrap_servers, topic, start)
    consumer: broker.ConsumerClient
    if client is Client.DIRECT:
        consumer = DirectConsumer(bootstrap_servers, topic, offsets)
    else:
        consumer = broker.KafkaConsumer(bootstrap_servers, topic, offsets)
    measure.oldest_of(Payloads.of([b""]))  # Loads the kernel before the first record comes.
    gc.disable()
    signalled = _stop_on_signal()
    clock = SystemClock()
    measure.LatencyMeter.warm_up()
    meter = measure.LatencyMeter(clock.wall_us(), window_ms * 1000)
    _emit({"kind": "ready", "topic": topic, "offsets": {str(p): o for p, o in offsets.items()}})
    try:
        final = measure.run(
            consumer,
            meter,
            clock,
            lambda window: _emit({"kind": "window", **window}),
            lambda: signalled() or (stop_on_stdin_close and _stdin_closed()),
        )
    finally:
        consumer.close()
    _emit(final)


@app.command(name="report")
def draw(
    measurement: Annotated[Path, typer.Argument(help="output of measure; its last line counts")],
    png: Annotated[Path, typer.Option(help="latency over time")] = Path("latency.png"),
    ccdf: Annotated[Path | None, typer.Option(help="share of records slower than x")] = None,
) -> None:
    """Draw a measurement and print its percentiles."""
    lines = measurement.read_text(encoding="utf-8").splitlines()
    final = json.loads(lines[-1]) if lines else {}
    if final.get("kind") != "final" or not final["count"]:
        raise broker.UsageFault(f"{measurement}: its last line is no final document with records")
    windows = report.windows_of(final["intended"], final["window_us"])
    everything, _ = report.split(windows, [(0, windows[-1].start_us)])
    report.timeline_png(png, windows, title="End-to-end latency")
    if ccdf is not None:
        report.ccdf_png(ccdf, {"all": everything}, title="End-to-end latency")
    _emit({"kind": "report", "latency_ms": report.latency_ms(everything)})


def main() -> None:
    """Entry point: run a command and turn named failures into one sentence and a status."""
    try:
        app()
    except broker.LoadError as error:
        typer.echo(f"nexmark-loadgen: {error}", err=True)
        raise SystemExit(error.exit_status) from error
    except KnobError as error:
        typer.echo(f"nexmark-loadgen: {error}", err=True)
        raise SystemExit(2) from error


def _sized(
    base: NexmarkConfig, state_keys: int, in_flight_auctions: int | None, rate: int
) -> NexmarkConfig:
    """The configuration with its state, and auctions that live as long as they are in flight."""
    config = base.with_state(state_keys)
    in_flight = config.in_flight_auctions if in_flight_auctions is None else in_flight_auctions
    auctions_per_second = rate * config.auction_proportion / config.cycle
    # Uniform on 1 .. twice the mean, as in Beam.
    life_ms = round(2 * in_flight / auctions_per_second * 1000)
    return replace(
        config,
        in_flight_auctions=in_flight,
        auction_life_ms_max=min(max(1, life_ms), KNOB_MAX),
    )


def _shard(text: str) -> Shard:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"--shard {text!r}: expected I/N, such as 0/2")
    try:
        return Shard(int(index), int(count))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _offsets(bootstrap_servers: str, topic: str, start: str) -> dict[int, int]:
    """Where to start; waits a while for the topic to be created."""
    deadline_us = SystemClock().wall_us() + _TOPIC_SECONDS_MAX * US_PER_SECOND
    while not broker.partition_count(bootstrap_servers, topic):
        if SystemClock().wall_us() > deadline_us:
            raise broker.UsageFault(f"topic {topic} does not exist")
        SystemClock().sleep_us(200_000)
    if start in ("end", "beginning"):
        return broker.offsets_at(bootstrap_servers, topic, end=start == "end")
    try:
        return {int(partition): int(offset) for partition, offset in json.loads(start).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise broker.UsageFault(
            f"--from {start!r}: expected end, beginning or a JSON object of offsets"
        ) from error


def _emit(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _stop_on_signal() -> Callable[[], bool]:
    """Take SIGTERM and Ctrl-C as a request to end well."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return lambda: bool(asked)


def _stdin_closed() -> bool:
    """Whether stdin has ended; what it holds is read and ignored."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)
