"""A query in another stream processor, from the same topic of the same broker, beside ours.

Flow: a topic of JSON events -> [run_beside_kafka]: the peer's side with its own interpreter, then
our job, each to a topic of its own -> two rates, both of results that are the oracle's.

Invariants
  BK1  A peer's figure counts only if its rows are those of the oracle.
  BK2  The peer's time runs from its first result in Kafka to its last: neither its start nor its
       joining a consumer group is its rate. Ours runs from the start of the first process (BL1),
       which is the harder measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from service.bench.nexmark.backlog import output_topic, run_backlog
from service.bench.nexmark.children import Child
from service.bench.nexmark.jobs import JobOptions
from service.bench.nexmark.oracle import differences
from service.bench.nexmark.stream import StreamOptions
from service.bench.nexmark.topics import Place, read_back, records_in, rows_of
from service.errors import MegaphoneError

_SECONDS_MAX = 900.0
#: Queries that the peer's side has; each reads the one topic of bids.
_QUERIES = ("q0", "q1", "q2")


@dataclass(frozen=True, slots=True)
class BesideKafka:
    """One run of both, in events a second."""

    theirs: float
    ours: float

    @property
    def ratio(self) -> float:
        """How many times as fast we are."""
        return self.ours / self.theirs


def can_read(query: str) -> bool:
    """Whether there is a peer's side of a query."""
    return query in _QUERIES


def run_beside_kafka(
    place: Place,
    options: JobOptions,
    peer: str,
    python: Path,
    stream: StreamOptions,
    wanted: pa.Table,
    folder: Path,
) -> BesideKafka:
    """Run a query in a peer and in ours, one after the other.

    Args:
        place: where the events are, in JSON.
        options: of our job.
        peer: whose side it is.
        python: the interpreter of its environment.
        stream: the events.
        wanted: what the oracle says.
        folder: for logs and state.

    Raises:
        MegaphoneError: one of them failed or is not exact (BK1).
    """
    (source,) = options.inputs
    theirs = JobOptions(options.query, f"{options.app}-{peer}", options.prefix, options.output)
    with output_topic(place, theirs):
        module = f"service.bench.nexmark.{peer}_side"
        count = str(records_in(place, [source]))
        words = [options.query, place.bootstrap_servers, source, options.output, theirs.app, count]
        state = str(folder / "peer")
        with Child(peer, ["-m", module, *words, state], folder, python) as child:
            child.finish(_SECONDS_MAX)
        found = read_back(place, options.output)
        wrong = differences(options.query, rows_of(options.query, place, found), wanted)
    if wrong:
        raise MegaphoneError(f"{peer} is not exact: {'; '.join(wrong)}")
    ours = run_backlog(place, options, wanted, folder)
    if ours.wrong:
        raise MegaphoneError(f"{options.query} beside {peer}: {'; '.join(ours.wrong)}")
    span_s = max(1, found.last_ms - found.first_ms) / 1000
    return BesideKafka(stream.events / span_s, stream.events / ours.seconds)
