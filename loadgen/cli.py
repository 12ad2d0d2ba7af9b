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
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from loadgen import broker, measure, report
from loadgen.clock import SystemClock
from loadgen.dates import EventDates
from loadgen.direct import DirectConsumer, DirectProducer
from loadgen.merging import Mismatch, merged
from loadgen.options import (
    Client,
    FieldIs,
    dilation_of,
    field_reader,
    intended_by,
    mean_rate,
    schedule_for,
    shard_of,
    sized,
    steps_asked,
)
from loadgen.producer import Load, RunSender, Sender, SendOptions
from loadgen.schedule import US_PER_SECOND, WHOLE, ConstantRate
from loadgen.shapes import Shape
from service.nexmark.events import (
    EventSource,
    Format,
    NexmarkConfig,
    Times,
    Topics,
    UsageError,
    Wire,
)

# Between the last preparation and the first event, unless --start-at is given: an idempotent client
# has its producer id about half a second after it connects, and sends nothing before.
_LEAD_US = 1_500_000
_TOPIC_SECONDS_MAX = 10
_RUN_EXAMPLES = """Examples.

Avro, one topic, 100,000 events/s: nexmark-loadgen run --rate 100000 --seconds 60

JSON in three topics, 1 % of the time twice as fast:
nexmark-loadgen run --format json --topics separate --rate-shape steps --rate-steps
50000x99,100000x1

Twelve hours of event time in a minute: nexmark-loadgen run --seconds 60 --time-dilation 720

Two processes on one schedule: nexmark-loadgen run --start-at T --shard 0/2, and the same with 1/2
"""
_MEASURE_EXAMPLES = """Example.

Ten-second windows of a job with 5 s of out-of-orderness, whose results say window_start:
nexmark-loadgen run … > plan.json, beside
nexmark-loadgen measure --topic out --format json --plan plan.json --field window_start
--field-is window-start --size-ms 10000 --out-of-orderness-ms 5000
"""

app = typer.Typer(
    help="NEXMark load on Kafka, open loop, and its end-to-end latency.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Servers = Annotated[
    str, typer.Option("--bootstrap-servers", envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port,…")
]


ClientOption = Annotated[
    Client, typer.Option(help="direct: no library, a third of the processor time, no retries")
]


@app.callback()
def _root() -> None:
    """NEXMark load on Kafka, open loop, and its end-to-end latency."""


@app.command(epilog=_RUN_EXAMPLES)
def run(
    bootstrap_servers: Servers,
    topic: Annotated[
        str | None, typer.Option(help="the one topic, instead of PREFIX-events")
    ] = None,
    topic_prefix: Annotated[str, typer.Option(help="of the topics' names")] = "nexmark",
    topics: Annotated[
        Topics, typer.Option(help="combined: PREFIX-events; separate: PREFIX-person, …; see docs")
    ] = Topics.COMBINED,
    form: Annotated[Format, typer.Option("--format")] = Format.AVRO,
    times: Annotated[Times, typer.Option(help="date_time: epoch ms or ISO 8601")] = Times.MS,
    rate: Annotated[int, typer.Option(help="events per second", min=1, max=10_000_000)] = 50_000,
    rate_shape: Annotated[Shape, typer.Option(help="how the rate changes")] = Shape.CONSTANT,
    next_rate: Annotated[
        int | None, typer.Option(help="the other rate of square and sine", min=0, max=10_000_000)
    ] = None,
    rate_period: Annotated[float, typer.Option(help="seconds of a square or sine", min=0.001)] = 60,
    rate_steps: Annotated[str, typer.Option(help="of steps: RATExSECONDS,…; again and again")] = "",
    seconds: Annotated[float, typer.Option(help="length of the stream", min=0, max=800_000)] = 30,
    state_keys: Annotated[
        int, typer.Option(help="auctions opened before the stream, all in flight", min=0)
    ] = 0,
    partitions: Annotated[int, typer.Option(help="of each topic", min=1)] = 4,
    seed: int = 0,
    load_only: Annotated[bool, typer.Option("--load-only", help="opening bids only")] = False,
    live_only: Annotated[bool, typer.Option("--live-only", help="stream only")] = False,
    start_at: Annotated[int | None, typer.Option(help="time of event 0, epoch µs")] = None,
    event_start: Annotated[
        int | None, typer.Option(help="date_time of event 0, epoch ms; default: when it is sent")
    ] = None,
    time_dilation: Annotated[
        str, typer.Option(help="seconds of event time per second: 720, 0.5 or 1/3")
    ] = "1",
    shard: Annotated[
        str, typer.Option(help="I/N: this process of N on one schedule; wants --start-at")
    ] = "0/1",
    tick_ms: Annotated[float, typer.Option(help="time between wake-ups", min=0.1)] = 5,
    late_ms: Annotated[float, typer.Option(help="later than this counts as late", min=0)] = 10,
    linger_ms: Annotated[float, typer.Option(help="of the Kafka producer", min=0)] = 1,
    client: ClientOption = Client.LIBRDKAFKA,
    person_proportion: Annotated[int, typer.Option(help="of a cycle's events")] = 1,
    auction_proportion: Annotated[int, typer.Option(help="of a cycle's events")] = 3,
    bid_proportion: Annotated[int, typer.Option(help="of a cycle's events")] = 46,
    in_flight_auctions: Annotated[
        int | None, typer.Option(help="default: --state-keys, or 100")
    ] = None,
    hot_auction_ratio: Annotated[int, typer.Option(help="R: (R-1)/R of bids are hot")] = 2,
    hot_bidder_ratio: int = 4,
    hot_seller_ratio: int = 4,
    active_people: int = 1000,
    first_person_id: int = 1000,
    first_auction_id: int = 1000,
    first_category_id: int = 10,
    categories: int = 5,
    out_of_order_group_size: Annotated[
        int, typer.Option(help="events shuffled together, each with its own date_time")
    ] = 1,
) -> None:
    """Send opening bids as fast as possible, then the stream on its schedule.

    Prints the plan of the stream, a JSON line per second and one at the end of each phase.
    """
    if load_only and live_only:
        raise typer.BadParameter("--load-only and --live-only exclude each other")
    mine = shard_of(shard)
    if mine.count > 1 and start_at is None and not load_only:
        raise typer.BadParameter("--shard of several wants --start-at: all must begin together")
    steps = steps_asked(rate_shape, rate, next_rate, rate_period, rate_steps)
    dilation = dilation_of(time_dilation)
    knobs = NexmarkConfig(
        seed=seed,
        person_proportion=person_proportion,
        auction_proportion=auction_proportion,
        bid_proportion=bid_proportion,
        hot_auction_ratio=hot_auction_ratio,
        hot_bidder_ratio=hot_bidder_ratio,
        hot_seller_ratio=hot_seller_ratio,
        active_people=active_people,
        first_person_id=first_person_id,
        first_auction_id=first_auction_id,
        first_category_id=first_category_id,
        categories=categories,
        out_of_order_group_size=out_of_order_group_size,
    )
    config = sized(knobs, state_keys, in_flight_auctions, mean_rate(steps), dilation)
    wire = Wire(format=form, times=times, topics=topics)
    names = wire.topic_names(topic_prefix)
    if topic is not None:
        if len(names) > 1:
            raise typer.BadParameter("--topic names one topic; with separate ones: --topic-prefix")
        names = (topic,)
    options = SendOptions(
        partitions=partitions,
        tick_us=round(tick_ms * 1000),
        late_us=round(late_ms * 1000),
        shard=mine,
    )
    # Nothing here makes cycles, and a collection would walk the messages of every run.
    gc.disable()
    for name in names:
        broker.ensure_topic(bootstrap_servers, name, partitions)
    clock = SystemClock()
    sender = _sender(client, bootstrap_servers, names, partitions, linger_ms)
    load = Load(config, options, sender, clock, wire=wire)
    load.warm_up()
    stop = _stop_on_signal()
    if not live_only:
        load.open_auctions(_emit, stop, event_start)
    if not load_only:
        start_us = clock.wall_us() + _LEAD_US if start_at is None else start_at
        schedule = schedule_for(steps, start_us, round(seconds * US_PER_SECOND))
        origin_us = start_us if event_start is None else event_start * 1000
        dates = EventDates.grouped(schedule, origin_us, dilation, out_of_order_group_size)
        _emit(dates.document())
        load.stream(schedule, _emit, stop, dates)
    sender.close()


@app.command(epilog="Example: nexmark-loadgen events --count 3 --times iso")
def events(
    first: Annotated[int, typer.Option(help="number of the first event", min=0)] = 0,
    count: Annotated[int, typer.Option(min=1, max=1_000_000)] = 10,
    seed: int = 0,
    rate: Annotated[int, typer.Option(help="events per second of event time", min=1)] = 50_000,
    event_start: Annotated[int, typer.Option(help="date_time of event 0, epoch ms")] = 0,
    times: Annotated[Times, typer.Option(help="date_time: epoch ms or ISO 8601")] = Times.MS,
) -> None:
    """Print events as tagged JSON, one a line, without any broker: the stream as it would be."""
    wire = Wire(format=Format.JSON, times=times, topics=Topics.TAGGED)
    config = sized(NexmarkConfig(seed=seed), 0, None, Fraction(rate), Fraction(1))
    schedule = ConstantRate(event_start * 1000, rate, first + count)
    source = EventSource(config, wire=wire)
    for begin in range(first, first + count, SendOptions(partitions=1).run_events_max):
        end = min(first + count, begin + SendOptions(partitions=1).run_events_max)
        numbers = WHOLE.numbers(begin, end)
        run = source.encode(numbers, schedule.times_us(numbers) // 1000, 1)
        for value in run.values():
            sys.stdout.write(value.decode() + "\n")


@app.command(name="measure", epilog=_MEASURE_EXAMPLES)
def measure_latency(
    bootstrap_servers: Servers,
    topic: Annotated[str, typer.Option(help="the output topic")] = "nexmark-auction-bids",
    start: Annotated[
        str, typer.Option("--from", help='"end", "beginning" or {"partition": offset, …}')
    ] = "end",
    window_ms: Annotated[int, typer.Option(help="of the timeline", min=1)] = measure.WINDOW_US
    // 1000,
    form: Annotated[Format, typer.Option("--format", help="of the results")] = Format.AVRO,
    schema: Annotated[
        Path | None, typer.Option(help="ID.avsc of the results; default: auction_bids")
    ] = None,
    field: Annotated[str, typer.Option(help="a time in each result, ms")] = "oldest",
    field_is: Annotated[
        FieldIs, typer.Option(help="what it is: an event's date, or a bound of a window")
    ] = FieldIs.DATE,
    size_ms: Annotated[int, typer.Option(help="of the windows, for window-start", min=0)] = 0,
    out_of_orderness_ms: Annotated[
        int, typer.Option(help="bound of the job's watermarks", min=0)
    ] = 0,
    plan: Annotated[
        Path | None,
        typer.Option(help="what the generator prints, in a file; read at the first result"),
    ] = None,
    stop_on_stdin_close: Annotated[
        bool, typer.Option("--stop-on-stdin-close", help="stop when stdin ends, as on SIGTERM")
    ] = False,
    client: ClientOption = Client.LIBRDKAFKA,
) -> None:
    """Measure latency at a consumer of the output topic until told to stop.

    Prints a JSON line when ready, one per window, and a final one.
    """
    if field_is is not FieldIs.DATE and plan is None:
        raise typer.BadParameter(
            f"--field-is {field_is} wants --plan: which event closed a window?"
        )
    reader = field_reader(form, schema, field)
    after_ms = out_of_orderness_ms + (size_ms if field_is is FieldIs.WINDOW_START else 0)
    intended = intended_by(field_is, plan, after_ms)
    offsets = _offsets(bootstrap_servers, topic, start)
    clock = SystemClock()
    consumer: broker.ConsumerClient
    if client is Client.DIRECT:
        consumer = DirectConsumer(bootstrap_servers, topic, offsets, clock)
    else:
        consumer = broker.KafkaConsumer(bootstrap_servers, topic, offsets)
    gc.disable()
    signalled = _stop_on_signal()
    measure.LatencyMeter.warm_up()
    meter = measure.LatencyMeter(
        clock.wall_us(), window_ms * 1000, reader=reader, intended=intended
    )
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


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="output of run or of measure")],
) -> None:
    """Merge what the processes of one load printed, or several meters, into one document each."""
    documents = [
        json.loads(line)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("{")
    ]
    try:
        found = merged(documents)
    except Mismatch as error:
        raise broker.UsageFault(str(error)) from error
    if not found:
        raise broker.UsageFault("no summary and no final document in these files")
    for document in found:
        _emit(document)


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
    except UsageError as error:
        typer.echo(f"nexmark-loadgen: {error}", err=True)
        raise SystemExit(2) from error


def _sender(
    client: Client, servers: str, topics: tuple[str, ...], partitions: int, linger_ms: float
) -> RunSender:
    """What sends the runs, connected."""
    if client is Client.DIRECT:
        return DirectProducer(servers, topics, partitions, SystemClock())
    producer = broker.KafkaProducer(servers, linger_ms)
    for topic in topics:
        producer.connect(topic)
    return Sender(producer, topics, partitions)


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
