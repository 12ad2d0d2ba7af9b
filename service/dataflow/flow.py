"""The users' API: a flow is a value that says what to compute, not where.

Flow: user's module -> [Flow] -> lowering -> Dataflow. The same value runs on one process or many,
with or without bins on the move; nothing in it can tell the difference.

Invariants
  V1  Vertices are added inputs-first, so a flow has no cycle.
  V2  Names are unique in a flow: state, metrics and checkpoints are found by them.
  V3  What this version cannot do is refused by name when the flow is written, never ignored.
  V4  Rows stay in the gateway that read them until a keyed vertex sends them to a worker; behind it
      they stay in workers.

Example:
    >>> from service.dataflow.flow import Flow, KafkaSink, KafkaSource, count, highest
    >>> flow = Flow("bids")
    >>> connector = KafkaSource(["events"], record="bid", fields=["auction", "price"])
    >>> bids = flow.source("bids", connector)
    >>> stats = bids.key_by("auction").aggregate("stats", bids=count(), top=highest("price"))
    >>> _ = stats.sink("out", KafkaSink("stats", key="auction", schema=9))
    >>> [vertex.name for vertex in flow.vertices]
    ['bids', 'stats', 'out']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from service.errors import GraphError, NotYetSupported
from service.ids import Role
from service.statestore.aggregate import Aggregate, Count, Max, Min, Oldest, Sum

BatchFunction = Callable[[pa.RecordBatch], pa.RecordBatch]
MaskFunction = Callable[[pa.RecordBatch], pa.Array]


class Order(Enum):
    """How a stateful vertex takes records: on arrival, or in the total order of timestamps."""

    EAGER = "eager"
    ORDERED = "ordered"


@dataclass(frozen=True)
class KafkaSource:
    """Avro records of one type from Kafka topics.

    Attributes:
        topics: topics to read, all partitions.
        record: name of the record type to take; other types in the topics are skipped.
        fields: columns to decode; the rest of a record is checked and skipped.
    """

    topics: Sequence[str]
    record: str
    fields: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.topics, str) or isinstance(self.fields, str):
            raise GraphError("KafkaSource takes lists of topics and fields, not single strings")
        if not self.topics or not self.fields:
            raise GraphError("a KafkaSource needs at least one topic and one field")
        if len(set(self.fields)) != len(self.fields):
            raise GraphError(f"KafkaSource fields {list(self.fields)} repeat a name")


@dataclass(frozen=True)
class KafkaSink:
    """Avro records to a Kafka topic, one per row, with headers naming who wrote it and its bin.

    The first header is `worker`, or `gateway` for rows that no keyed vertex sent to a worker.

    Attributes:
        topic: topic to write; it must exist.
        key: integer column written as the record's key, 8 bytes big-endian.
        schema: id of the record schema in the registry; the stream must have its fields as columns.
    """

    topic: str
    key: str
    schema: int


@dataclass(frozen=True)
class SourceVertex:
    """Records come in."""

    name: str
    connector: KafkaSource


@dataclass(frozen=True)
class MapVertex:
    """A function over whole batches, without state."""

    name: str
    function: BatchFunction
    upstream: int


@dataclass(frozen=True)
class ConcatVertex:
    """Several streams as one; each input is a branch, numbered in the order given."""

    name: str
    upstreams: tuple[int, ...]


@dataclass(frozen=True)
class AggregateVertex:
    """Per key, some aggregates; lowered to F and S."""

    name: str
    key: str
    aggregates: Mapping[str, Aggregate]
    upstream: int
    order: Order = Order.EAGER


@dataclass(frozen=True)
class SinkVertex:
    """Records go out."""

    name: str
    connector: KafkaSink
    upstream: int


Vertex = SourceVertex | MapVertex | ConcatVertex | AggregateVertex | SinkVertex


def count() -> Aggregate:
    """Number of records of the key."""
    return Count()


def total(column: str) -> Aggregate:
    """Sum of `column`; a 64-bit overflow stops the job with a named error."""
    return Sum(column)


def highest(column: str) -> Aggregate:
    """Greatest value of `column`."""
    return Max(column)


def lowest(column: str) -> Aggregate:
    """Least value of `column`."""
    return Min(column)


def oldest(column: str) -> Aggregate:
    """Least value of `column` among the records this output absorbed; it is not kept as state."""
    return Oldest(column)


class Flow:
    """A dataflow under construction; see the module's example."""

    def __init__(self, name: str) -> None:
        """Begin an empty flow; `name` appears in logs and checkpoints."""
        self.name = name
        self.vertices: list[Vertex] = []

    def source(self, name: str, connector: KafkaSource) -> Stream:
        """Add a source.

        Raises:
            GraphError: the name is taken.
        """
        return self._stream(SourceVertex(name, connector), tuple(connector.fields))

    def concat(self, name: str, *streams: Stream) -> Stream:
        """Join `streams` into one; all must have the same columns.

        Raises:
            GraphError: fewer than two streams, streams of another flow, or other columns.
        """
        if len(streams) < 2:
            raise GraphError(f"concat {name!r} needs at least two streams")
        for stream in streams:
            self._own(stream)
        columns = {stream.columns for stream in streams}
        if len(columns) != 1 and None not in columns:
            listed = [list(stream.columns or ()) for stream in streams]
            raise GraphError(f"concat {name!r}: the streams have different columns {listed}")
        vertex = ConcatVertex(name, tuple(stream.vertex for stream in streams))
        return self._stream(vertex, streams[0].columns)

    def check(self) -> None:
        """Refuse a flow that cannot run.

        Raises:
            GraphError: it has no source, or a stream goes nowhere; with the vertex's name.
            NotYetSupported: two sources read one topic.
        """
        if not any(isinstance(vertex, SourceVertex) for vertex in self.vertices):
            raise GraphError(f"flow {self.name!r} has no source; add flow.source(...)")
        read: dict[str, str] = {}
        for vertex in self.vertices:
            if isinstance(vertex, SourceVertex):
                for topic in vertex.connector.topics:
                    if topic in read:
                        raise NotYetSupported(
                            f"topic {topic!r} read by two sources, {read[topic]!r} and "
                            f"{vertex.name!r},",
                            "put their records into topics of their own",
                        )
                    read[topic] = vertex.name
        used = {up for vertex in self.vertices for up in upstreams_of(vertex)}
        for number, vertex in enumerate(self.vertices):
            if number not in used and not isinstance(vertex, SinkVertex):
                raise GraphError(
                    f"flow {self.name!r}: nothing reads {vertex.name!r}; add .sink(...) to it"
                )

    def roles(self) -> dict[str, frozenset[Role]]:
        """Where rows leave each vertex, by its name (V4); a concat may have rows in both."""
        found: list[frozenset[Role]] = []
        for vertex in self.vertices:
            match vertex:
                case SourceVertex():
                    found.append(frozenset({Role.GATEWAY}))
                case AggregateVertex():
                    found.append(frozenset({Role.WORKER}))
                case _:
                    found.append(
                        frozenset[Role]().union(*map(found.__getitem__, upstreams_of(vertex)))
                    )
        return {vertex.name: where for vertex, where in zip(self.vertices, found, strict=True)}

    def _own(self, stream: Stream) -> None:
        if stream.flow is not self:
            raise GraphError(f"a stream of flow {stream.flow.name!r} was used in {self.name!r}")

    def _stream(self, vertex: Vertex, columns: tuple[str, ...] | None) -> Stream:
        if any(other.name == vertex.name for other in self.vertices):
            raise GraphError(f"flow {self.name!r} already has a vertex named {vertex.name!r}")
        self.vertices.append(vertex)
        return Stream(self, len(self.vertices) - 1, columns)


class Stream:
    """The output of one vertex."""

    def __init__(self, flow: Flow, vertex: int, columns: tuple[str, ...] | None) -> None:
        """Made by the flow; `columns` is None when a user's function decides them."""
        self.flow = flow
        self.vertex = vertex
        self.columns = columns

    def map_batches(
        self, name: str, function: BatchFunction, columns: Sequence[str] | None = None
    ) -> Stream:
        """Apply `function` to every record batch; say its output `columns` to have them checked."""
        vertex = MapVertex(name, function, self.vertex)
        return self.flow._stream(vertex, tuple(columns) if columns else None)

    def filter(self, name: str, mask: MaskFunction) -> Stream:
        """Keep the rows for which `mask(batch)`, a boolean array, is true."""

        def keep(rows: pa.RecordBatch) -> pa.RecordBatch:
            return rows.filter(mask(rows))

        return self.flow._stream(MapVertex(name, keep, self.vertex), self.columns)

    def select(self, name: str, *columns: str) -> Stream:
        """Keep only `columns`, in this order."""
        for column in columns:
            self._need(column, name)

        def project(rows: pa.RecordBatch) -> pa.RecordBatch:
            return rows.select(list(columns))

        return self.flow._stream(MapVertex(name, project, self.vertex), columns)

    def key_by(self, column: str) -> KeyedStream:
        """Group by an integer column."""
        self._need(column, "key_by")
        return KeyedStream(self, column)

    def sink(self, name: str, connector: KafkaSink) -> Flow:
        """Write the stream out; returns the flow."""
        self._need(connector.key, name)
        self.flow._stream(SinkVertex(name, connector, self.vertex), None)
        return self.flow

    def iterate(self, *_: object) -> Stream:
        """Loops are refused in this version.

        Raises:
            NotYetSupported: always.
        """
        raise NotYetSupported("a loop (iterate)", "write the flow without one")

    def _need(self, column: str, user: str) -> None:
        if self.columns is not None and column not in self.columns:
            raise GraphError(f"{user!r} needs column {column!r}; the stream has {self.columns}")


class KeyedStream:
    """A stream grouped by a key; what follows keeps state per key, in bins."""

    def __init__(self, stream: Stream, key: str) -> None:
        """Made by `Stream.key_by`."""
        self._stream = stream
        self._key = key

    def aggregate(
        self, name: str, *, order: Order = Order.EAGER, **aggregates: Aggregate
    ) -> Stream:
        """Keep `aggregates` per key and emit them on change.

        The output has one row for each key a batch changed, with the key and the aggregates' new
        values as columns. It is a changelog: how many inputs one row absorbs depends on the load,
        the last row of each key does not.

        Raises:
            GraphError: no aggregates, something else than an aggregate, an unknown column, or a
                name equal to the key.
            NotYetSupported: an ordered vertex.
        """
        if order is not Order.EAGER:
            raise NotYetSupported("an ordered vertex", "leave order=Order.EAGER")
        if not aggregates:
            raise GraphError(f"aggregate {name!r} has nothing to compute")
        if self._key in aggregates:
            raise GraphError(f"aggregate {name!r}: an output is named like the key {self._key!r}")
        for output, aggregate in aggregates.items():
            if not isinstance(aggregate, Aggregate):
                raise GraphError(
                    f"aggregate {name!r}: {output!r} is {aggregate!r}; use count(), total(...), "
                    "highest(...), lowest(...) or oldest(...)"
                )
            if aggregate.column is not None:
                self._stream._need(aggregate.column, name)
        vertex = AggregateVertex(name, self._key, dict(aggregates), self._stream.vertex, order)
        return self._stream.flow._stream(vertex, (self._key, *aggregates))

    def window(self, *_: object) -> KeyedStream:
        """Windows, timers and watermarks are refused in this version.

        Raises:
            NotYetSupported: always.
        """
        raise NotYetSupported("a window (timers and watermarks)", "aggregate without one")


def upstreams_of(vertex: Vertex) -> tuple[int, ...]:
    """Numbers of the vertices that feed `vertex`."""
    match vertex:
        case SourceVertex():
            return ()
        case ConcatVertex():
            return vertex.upstreams
        case _:
            return (vertex.upstream,)
