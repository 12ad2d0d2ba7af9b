"""What a flow consists of: vertices as values, each naming those it reads.

Flow: [vertices] <- built by `service.dataflow.flow`, read by lowering, check and drawing. Pure.

Invariants
  VX1  A vertex names earlier vertices only, but for a feedback, which names the end of its body.
  VX2  A vertex lies in the loops of those it reads; entering adds one, leaving drops the innermost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pyarrow as pa

from service.dataflow.connectors import LocalSink, LocalSource
from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.formats import require_format, require_types
from service.dataflow.row_vertices import BatchFunction, RowVertex
from service.errors import GraphError
from service.statestore.aggregate import Aggregate
from service.statestore.object_rows import StateCodec
from service.statestore.stateful_map import RowForm, StateFunction


class Order(Enum):
    """How a stateful vertex takes records: on arrival, or in the total order of timestamps."""

    EAGER = "eager"
    ORDERED = "ordered"


@dataclass(frozen=True)
class KafkaSource:
    """Records of one type from Kafka topics.

    Attributes:
        topics: topics to read, all partitions.
        record: name of the record type to take; other types in the topics are skipped. Of JSON it
            says which schema has the types of the columns, unless `types` does.
        fields: columns to decode; the rest of a record is checked and skipped.
        format: "avro", in the wire format of a schema registry, or "json", an object a record.
        inside: the member, or field, that holds the record in an object around it; objects without
            it, or with null, are skipped.
        times: integer columns that in JSON may also be ISO 8601 text, which becomes milliseconds
            since 1970.
        types: for JSON without a schema: `{"user": "int64", "note": "string?"}`; one with a "?" may
            be null or missing. Without `fields` its names are the columns.
    """

    topics: Sequence[str]
    record: str = ""
    fields: Sequence[str] = ()
    format: str = "avro"
    inside: str = ""
    times: Sequence[str] = ()
    types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.fields:
            object.__setattr__(self, "fields", tuple(self.types))
        if any(isinstance(each, str) for each in (self.topics, self.fields, self.times)):
            raise GraphError("KafkaSource takes lists of topics and fields, not single strings")
        if not self.topics or not self.fields:
            raise GraphError("a KafkaSource needs at least one topic and one field")
        if len(set(self.fields)) != len(self.fields):
            raise GraphError(f"KafkaSource fields {list(self.fields)} repeat a name")
        require_format("KafkaSource", self.format)
        require_types(self.format, self.record, self.fields, self.types, self.times)


@dataclass(frozen=True)
class KafkaSink:
    """Records to a Kafka topic, one per row, with headers naming who wrote it and its bin.

    The first header is `worker`, or `gateway` for rows that no keyed vertex sent to a worker.

    Attributes:
        topic: topic to write; it must exist.
        key: integer column written as the record's key, 8 bytes big-endian.
        schema: id of the record schema in the registry; the stream must have its fields as columns.
            JSON needs none: every column becomes a member.
        format: "avro" or "json".
    """

    topic: str
    key: str
    schema: int | None = None
    format: str = "avro"

    def __post_init__(self) -> None:
        require_format("KafkaSink", self.format)
        if self.schema is None and self.format == "avro":
            raise GraphError(
                f"the sink of topic {self.topic!r} needs the id of its schema, schema=...; or "
                'write JSON, format="json"'
            )


@dataclass(frozen=True)
class SourceVertex:
    """Records come in."""

    name: str
    connector: KafkaSource | LocalSource
    #: How it estimates event time; None: it does not.
    watermarks: Watermarks | None = None
    #: Topics that an earlier source of the flow reads as well.
    shared: frozenset[str] = frozenset()

    @property
    def kafka(self) -> KafkaSource:
        """The connector of a flow that reads Kafka; see `uses_kafka`."""
        assert isinstance(self.connector, KafkaSource), "only Kafka's flows get to Kafka's code"
        return self.connector

    @property
    def inputs(self) -> Sequence[str]:
        """What its partitions are numbered in: topics, or itself for an end that is no Kafka.

        Each source has positions of its own, so a topic that an earlier one reads is named after
        this one, too. No topic's own name has an @.
        """
        if isinstance(self.connector, KafkaSource):
            return [
                f"{topic}@{self.name}" if topic in self.shared else topic
                for topic in self.connector.topics
            ]
        return (self.name,)

    def topic_of(self, label: str) -> str:
        """The topic behind one of `inputs`."""
        return self.kafka.topics[self.inputs.index(label)]


@dataclass(frozen=True)
class MapVertex:
    """A function over whole batches, without state."""

    name: str
    function: BatchFunction
    upstream: int
    #: What the flow calls it, for people.
    kind: str = "map"


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
class StatefulMapVertex:
    """Per row, a user's function of the row and its key's state; lowered to F and S."""

    name: str
    key: str
    function: StateFunction
    #: What the function is given of a row: a column's value, a tuple, or, for None, a dict of all.
    value: RowForm
    #: Columns of the output, without the key.
    outputs: pa.Schema
    initial: Callable[[], Any] | None
    codec: StateCodec
    #: Whether the function's output is any number of rows.
    flat: bool
    upstream: int
    order: Order = Order.EAGER


@dataclass(frozen=True)
class DistinctVertex:
    """Per key, its first row; lowered to F and S."""

    name: str
    key: str
    upstream: int
    order: Order = Order.EAGER


@dataclass(frozen=True)
class JoinVertex:
    """Pairs of rows of two streams with one key; lowered to an operator that tags, F and S."""

    name: str
    #: Key columns of the left and the right stream; the output has the left one's name.
    keys: tuple[str, str]
    upstreams: tuple[int, int]
    #: Added to names of the right stream's columns that the left one has too.
    suffix: str
    order: Order = Order.EAGER

    @property
    def key(self) -> str:
        """Name of the key in the output."""
        return self.keys[0]


class TimedVertex(ABC):
    """A vertex whose state changes with event time; lowered to F and an S that hears watermarks.

    It is ordered always, lies in no loop, and every stream it reads has an event time.
    """

    name: str
    #: The streams it reads, and the key column of each.
    upstreams: tuple[int, ...]
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the key in the output."""
        return self.keys[0]

    @property
    def order(self) -> Order:
        """Rows late or not, and timers, depend on the order of time."""
        return Order.ORDERED

    @property
    def described(self) -> str:
        """What it does, in a few words, for people."""
        return f"by {self.key}"

    @abstractmethod
    def event_time(self, given: Sequence[EventTime]) -> EventTime | None:
        """The event time of its output, from those of the streams it reads; None: it has none."""

    def late_columns(self, given: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
        """Columns of its late rows, from those of the streams it reads, as far as known."""
        return given[0]


#: Vertices that keep state per key, in bins that move.
KeyedVertex = AggregateVertex | StatefulMapVertex | DistinctVertex | JoinVertex | TimedVertex


@dataclass(frozen=True)
class EnterVertex:
    """Rows enter a loop, with its counter at zero."""

    name: str
    upstream: int
    #: Number of the loop's first `EnterVertex`, which stands for the loop; None in that one.
    loop: int | None = None


@dataclass(frozen=True)
class FeedbackVertex:
    """Rows go round a loop again, with its counter raised by one."""

    name: str
    #: Number of the loop's first `EnterVertex`.
    loop: int
    #: How often a row may pass the body; None: until the body lets it go.
    rounds_max: int | None
    #: The end of the body; -1 while the body is being written.
    upstream: int = -1


@dataclass(frozen=True)
class LeaveVertex:
    """Rows leave a loop; its counter is dropped."""

    name: str
    upstream: int


@dataclass(frozen=True)
class SinkVertex:
    """Records go out."""

    name: str
    connector: KafkaSink | LocalSink
    upstream: int

    @property
    def kafka(self) -> KafkaSink:
        """The connector of a flow that writes Kafka; see `uses_kafka`."""
        assert isinstance(self.connector, KafkaSink), "only Kafka's flows get to Kafka's code"
        return self.connector


#: What stands for one operator without state, or for several.
StatelessVertex = MapVertex | ConcatVertex | EnterVertex | LeaveVertex | RowVertex

Vertex = SourceVertex | StatelessVertex | KeyedVertex | FeedbackVertex | SinkVertex


def upstreams_of(vertex: Vertex) -> tuple[int, ...]:
    """Numbers of the vertices that feed `vertex`."""
    match vertex:
        case SourceVertex():
            return ()
        case ConcatVertex() | JoinVertex() | TimedVertex():
            return vertex.upstreams
        case _:
            return (vertex.upstream,)
