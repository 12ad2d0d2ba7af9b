"""How fast a gateway polls, decodes and routes, beside a consumer that only polls.

Flow: a topic of NEXMark events -> [run_ingest] -> bare consumer and gateway in turns (polling) ->
figures -> BenchDocument.

Both read the whole topic with the same client settings and in the same portions. The method, and
what is left out, stand in docs/benchmarks/ingest.md.

Invariants
  BI3  Sides take turns, the first side changes with each run, and a ratio is taken within a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.bench.polling import IngestBench, Reading, Shape, Stages
from service.bench.stall import StallProbe
from service.bench.topic import PARTITIONS, filled_topic
from service.clock import Clock
from service.config import Config
from service.ingest.feed import PORTION_RECORDS
from service.nexmark.queries import auction_bids
from service.nexmark.query_topics import QueryTopics

#: What a gateway must reach of the bare rate.
BOUND = 0.6
BINS = 1024
WORKERS = 2
#: Records in a poll of a gateway that keeps up, at 100,000 a second and a tick of 5 ms.
SMALL_POLL = 500
#: Polls there are at least in a topic; a smaller topic is read in smaller polls.
_POLLS_MIN = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure: `records` in the topic, read `runs` times by each side."""

    records: int
    runs: int


def run_ingest(
    bootstrap_servers: str, options: Options, config: Config, clock: Clock
) -> BenchDocument:
    """Measure, on a broker that is there.

    Raises:
        BrokerError: the broker fails or falls silent.
    """
    where = machine()
    topics = QueryTopics(f"megaphone-bench-{clock.wall_us()}")
    shape = Shape(WORKERS, BINS, min(config.gateway.poll_records, options.records // _POLLS_MIN))
    with filled_topic(bootstrap_servers, topics.events, options.records) as topic:
        flow = auction_bids(topics)
        bench = IngestBench(bootstrap_servers, topic, flow, config.gateway, shape, clock)
        bench.bare()
        bench.gateway()
        with StallProbe() as probe:
            figures = list(_figures(bench, options.runs))
    parameters = {
        "records": options.records,
        "runs": options.runs,
        "bytes_per_record": round(topic.bytes / options.records, 1),
        "partitions": PARTITIONS,
        "poll_records": shape.poll_records,
        "portion_records": min(PORTION_RECORDS, shape.poll_records),
        "prefetch_kb": config.gateway.prefetch_kb,
        "workers": shape.workers,
        "bins": shape.bins,
    }
    where["stall_ms"] = round(probe.stall_ms, 3)
    return BenchDocument("ingest", commit(), where, parameters, figures)


def _figures(bench: IngestBench, runs: int) -> Iterator[Figure]:
    bare: list[Reading] = []
    gateway: list[Reading] = []
    stages: list[Stages] = []
    for run in range(runs):
        for side in ("bare", "gateway") if run % 2 == 0 else ("gateway", "bare"):
            if side == "bare":
                bare.append(bench.bare())
            else:
                reading, split = bench.gateway()
                gateway.append(reading)
                stages.append(split)
    pairs = list(zip(gateway, bare, strict=True))
    ratios = [ours.rate / theirs.rate for ours, theirs in pairs]
    yield Figure.of("poll-decode-route over bare poll", "", ratios, at_least=BOUND)
    yield Figure.of("bare poll", "records/s", [each.rate for each in bare])
    yield Figure.of("poll-decode-route", "records/s", [each.rate for each in gateway])
    cpu = [theirs.cpu_ns * ours.records / ours.cpu_ns / theirs.records for ours, theirs in pairs]
    yield Figure.of("same ratio in processor time of the polling thread", "", cpu)
    yield Figure.of("stage: poll", "ns/record", [each.poll for each in stages])
    yield Figure.of("stage: decode", "ns/record", [each.decode for each in stages])
    yield Figure.of("stage: stamp, route, encode", "ns/record", [each.route for each in stages])
    kernel = [bench.kernel_rate() for _ in range(runs)]
    yield Figure.of("decode kernel, bids in memory", "records/s", kernel)
    for size, title in ((SMALL_POLL, f"poll of {SMALL_POLL} records"), (1, "poll of 1 record")):
        costs = [bench.poll_cost_us(size) for _ in range(runs)]
        yield Figure.of(f"{title}, from the client's messages to frames", "us", costs)
