"""The users' API: a flow is a value that says what to compute, not where.

Flow: user's module -> [Flow] -> lowering -> Dataflow. The same value runs on one process or many,
with or without bins on the move; nothing in it can tell the difference.

Invariants
  V1  Vertices are added inputs-first; only a loop's feedback leads back, and `iterate` alone makes
      one, so every cycle lies in a loop.
  V2  Names are unique in a flow: state, metrics and checkpoints are found by them.
  V3  What this version cannot do is refused by name when the flow is written, never ignored.

Example:
    >>> from service.dataflow.flow import Flow, count, highest
    >>> from service.dataflow.vertices import KafkaSink, KafkaSource
    >>> flow = Flow("bids")
    >>> connector = KafkaSource(["events"], record="bid", fields=["auction", "price"])
    >>> bids = flow.source("bids", connector)
    >>> stats = bids.key_by("auction").aggregate("stats", bids=count(), top=highest("price"))
    >>> _ = stats.sink("out", KafkaSink("stats", key="auction", schema=9))
    >>> [vertex.name for vertex in flow.vertices]
    ['bids', 'stats', 'out']
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

from service.dataflow.connectors import LocalSink, LocalSource
from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.flow_shape import loops_of, topics_of, uses_kafka
from service.dataflow.processing import ProcessOperators
from service.dataflow.row_operations import RowOperations
from service.dataflow.row_vertices import CaptureVertex, InspectVertex, SideVertex
from service.dataflow.time_paths import event_time_behind, lost_at
from service.dataflow.timed_joins import TimedJoinOperators
from service.dataflow.vertices import (
    ConcatVertex,
    EnterVertex,
    FeedbackVertex,
    KafkaSink,
    KafkaSource,
    LeaveVertex,
    SinkVertex,
    SourceVertex,
    TimedVertex,
    Vertex,
    upstreams_of,
)
from service.dataflow.window_values import START, Window
from service.dataflow.windows import WindowedStream
from service.durations import Duration
from service.errors import GraphError
from service.statestore.aggregate import Aggregate, Count, Max, Mean, Min, Oldest, Sum
from service.statestore.distinct_values import DistinctCount

#: Where a stream may end.
_ENDS = (SinkVertex, InspectVertex, CaptureVertex)

#: What a loop's body makes of the stream in it: what goes round again, and what leaves.
LoopBody = Callable[["Stream"], tuple["Stream", "Stream"]]


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


def mean(column: str) -> Aggregate:
    """Mean of `column`, a float64."""
    return Mean(column)


def distinct_count(column: str) -> DistinctCount:
    """Number of different values of `column`, in windows."""
    return DistinctCount(column)


def oldest(column: str) -> Aggregate:
    """Least value of `column` among the records this output absorbed; it is not kept as state."""
    return Oldest(column)


class Flow:
    """A dataflow under construction; see the module's example."""

    def __init__(self, name: str) -> None:
        """Begin an empty flow; `name` appears in logs and checkpoints."""
        self.name = name
        self.vertices: list[Vertex] = []
        #: Columns of each vertex's output, as far as they are known.
        self._columns: list[tuple[str, ...] | None] = []
        #: Event time of each vertex's output.
        self._event_times: list[EventTime | None] = []

    def source(
        self,
        name: str,
        connector: KafkaSource | LocalSource,
        *,
        watermarks: Watermarks | None = None,
    ) -> Stream:
        """Add a source: a topic, or rows that are in this process, such as a file.

        Args:
            name: of the vertex.
            connector: what to read.
            watermarks: which column is the event time, and how far it has come; windows and timers
                need it.

        Raises:
            GraphError: the name is taken, the connector is none, or it lacks the event time.
        """
        if not isinstance(connector, KafkaSource | LocalSource):
            raise GraphError(f"source {name!r}: {connector!r} is no source; use a KafkaSource")
        columns = None if connector.fields is None else tuple(connector.fields)
        if watermarks is not None and columns is not None and watermarks.column not in columns:
            raise GraphError(
                f"source {name!r}: the event time {watermarks.column!r} is none of its columns "
                f"{list(columns)}; add it to them"
            )
        shared = frozenset[str]()
        if isinstance(connector, KafkaSource):
            shared = topics_of(self.vertices) & frozenset(connector.topics)
        return self._stream(SourceVertex(name, connector, watermarks, shared), columns)

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
            GraphError: it has no source, a stream goes nowhere, or a loop is not in order; with the
                vertex's name.
            NotYetSupported: some ends are Kafka's and some not.
        """
        if not any(isinstance(vertex, SourceVertex) for vertex in self.vertices):
            raise GraphError(f"flow {self.name!r} has no source; add flow.source(...)")
        uses_kafka(self.vertices)
        used = {
            upstream
            for vertex in self.vertices
            # Who reads the side of a vertex does not read what it is for.
            if not isinstance(vertex, SideVertex)
            for upstream in upstreams_of(vertex)
        }
        for number, vertex in enumerate(self.vertices):
            if number not in used and not isinstance(vertex, _ENDS):
                raise GraphError(
                    f"flow {self.name!r}: nothing reads {vertex.name!r}; add .sink(...) to it"
                )
            if isinstance(vertex, FeedbackVertex) and vertex.upstream < 0:
                raise GraphError(
                    f"flow {self.name!r}: the loop of {vertex.name!r} was begun and not closed; "
                    "its body must return what goes round and what leaves"
                )
        around = loops_of(self.vertices)
        for number, vertex in enumerate(self.vertices):
            if isinstance(vertex, SinkVertex) and around[number]:
                raise GraphError(
                    f"sink {vertex.name!r} lies in a loop; return its stream from the body and add "
                    "the sink to what leaves"
                )
            if isinstance(vertex, TimedVertex) and around[number]:
                raise GraphError(
                    f"{vertex.name!r} has windows or timers and lies in a loop; return its stream "
                    "from the body and add it to what leaves"
                )

    def _own(self, stream: Stream) -> None:
        if stream.flow is not self:
            raise GraphError(f"a stream of flow {stream.flow.name!r} was used in {self.name!r}")

    def _stream(self, vertex: Vertex, columns: tuple[str, ...] | None) -> Stream:
        if any(other.name == vertex.name for other in self.vertices):
            raise GraphError(f"flow {self.name!r} already has a vertex named {vertex.name!r}")
        self.vertices.append(vertex)
        self._columns.append(columns)
        given = [self._event_times[up] for up in upstreams_of(vertex) if up >= 0]
        self._event_times.append(event_time_behind(vertex, given, columns))
        return Stream(self, len(self.vertices) - 1, columns)


class Stream(RowOperations):
    """The output of one vertex; what it does without state is in `RowOperations`."""

    def __init__(self, flow: Flow, vertex: int, columns: tuple[str, ...] | None) -> None:
        """Made by the flow; `columns` is None when a user's function decides them."""
        self.flow = flow
        self.vertex = vertex
        self.columns = columns

    @property
    def event_time(self) -> EventTime | None:
        """Which column is the event time of these rows; None if they have none."""
        return self.flow._event_times[self.vertex]

    def _need_event_time(self, user: str) -> EventTime:
        """The event time that `user`, a vertex, needs.

        Raises:
            GraphError: there is none; the text says where it was lost.
        """
        time = self.event_time
        if time is None:
            flow = self.flow
            why = lost_at(self.vertex, flow.vertices, flow._event_times)
            raise GraphError(f"{user!r} needs an event time: {why}")
        return time

    def _then(self, vertex: Vertex, columns: tuple[str, ...] | None) -> Stream:
        return self.flow._stream(vertex, columns)

    def _made_by(self) -> Vertex:
        return self.flow.vertices[self.vertex]

    def _columns_of(self, vertex: int) -> tuple[str, ...] | None:
        return self.flow._columns[vertex]

    def key_by(self, column: str) -> KeyedStream:
        """Group by a column of int64, text or bytes."""
        self._need(column, "key_by")
        return KeyedStream(self, column)

    def window(
        self, window: Window, *, allowed_lateness: Duration = "0s"
    ) -> WindowedStream[Stream]:
        """Cut all rows together into windows of event time; see `KeyedStream.window`.

        All rows of a window are in one bin, so one worker computes it; of sessions one computes
        them all.
        """
        return WindowedStream(KeyedStream(self, START), None, window, allowed_lateness)

    def sink(self, name: str, connector: KafkaSink | LocalSink) -> Flow:
        """Write the stream out, to a topic or in this process; returns the flow.

        Raises:
            GraphError: the name is taken, the connector is none, or the stream lacks its key.
        """
        if isinstance(connector, KafkaSink):
            self._need(connector.key, name)
        elif not isinstance(connector, LocalSink):
            raise GraphError(f"sink {name!r}: {connector!r} is no sink; use a KafkaSink")
        self.flow._stream(SinkVertex(name, connector, self.vertex), None)
        return self.flow

    def iterate(self, name: str, body: LoopBody, *, rounds_max: int | None = None) -> Stream:
        """Let rows go round a loop until its body lets them leave.

        Every round raises the loop's counter, which is part of the rows' time: frontiers know when
        an epoch has left the loop, and bins move while rows go round.

        Args:
            name: of the loop; its vertices are `name.enter`, `.again`, `.head` and `.leave`.
            body: is given the stream in the loop; returns the one that goes round again, which has
                the columns of what entered, and the one that leaves. Both must lie in the loop.
            rounds_max: how often a row may pass the body; what would go on after that is dropped.
                None: until the body lets it leave, so the body must do so some time.

        Returns:
            What leaves, outside the loop.

        Raises:
            GraphError: the body returned something else, or `rounds_max` is below 1.

        Example:
            Halve numbers until they are odd:

            >>> import pyarrow.compute as pc
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("odd")
            >>> numbers = flow.source("in", KafkaSource(["numbers"], record="number", fields=["n"]))
            >>> def body(rows):
            ...     even, odd = rows.branch(
            ...         "even", lambda batch: pc.equal(pc.bit_wise_and(batch["n"], 1), 0)
            ...     )
            ...     halved = even.map_batches(
            ...         "halve",
            ...         lambda batch: batch.set_column(0, "n", pc.divide(batch["n"], 2)),
            ...         columns=("n",),
            ...     )
            ...     return halved, odd
            >>> odd = numbers.iterate("halving", body)
            >>> odd.columns
            ('n',)
        """
        if rounds_max is not None and rounds_max < 1:
            raise GraphError(f"loop {name!r}: rounds_max is {rounds_max}; it must be at least 1")
        flow = self.flow
        entered = flow._stream(EnterVertex(f"{name}.enter", self.vertex), self.columns)
        feedback = FeedbackVertex(f"{name}.again", entered.vertex, rounds_max)
        again = flow._stream(feedback, self.columns)
        ends: object = body(flow.concat(f"{name}.head", entered, again))
        match ends:
            case (Stream() as round_again, Stream() as leaving):
                pass
            case _:
                raise GraphError(
                    f"the body of loop {name!r} must return two streams, what goes round again and "
                    f"what leaves; it returned {ends!r}"
                )
        for end in (round_again, leaving):
            flow._own(end)
            around = loops_of(flow.vertices[: end.vertex + 1])[end.vertex]
            if not around or around[-1] != entered.vertex:
                raise GraphError(
                    f"the body of loop {name!r} returned {flow.vertices[end.vertex].name!r}, which "
                    "does not lie in that loop; use the stream the body is given, or `into`"
                )
        flow.vertices[again.vertex] = replace(feedback, upstream=round_again.vertex)
        return flow._stream(LeaveVertex(f"{name}.leave", leaving.vertex), leaving.columns)

    def into(self, name: str, inside: Stream) -> Stream:
        """This stream inside the innermost loop around `inside`, where its rows enter as well.

        Raises:
            GraphError: `inside` lies in no loop, or this stream does not lie right outside it.
        """
        self.flow._own(inside)
        around = loops_of(self.flow.vertices)
        if not around[inside.vertex] or around[inside.vertex][:-1] != around[self.vertex]:
            raise GraphError(
                f"{name!r}: {self.flow.vertices[inside.vertex].name!r} lies in no loop that "
                f"{self.flow.vertices[self.vertex].name!r} could enter"
            )
        entering = EnterVertex(name, self.vertex, around[inside.vertex][-1])
        return self.flow._stream(entering, self.columns)


class KeyedStream(TimedJoinOperators["Stream"], ProcessOperators["Stream"]):
    """A stream grouped by a key; what follows keeps state per key, in bins."""

    def __init__(self, stream: Stream, key: str) -> None:
        """Made by `Stream.key_by`."""
        self._stream = stream
        self._key = key

    def window(
        self, window: Window, *, allowed_lateness: Duration = "0s"
    ) -> WindowedStream[Stream]:
        """Cut the rows of each key into windows of event time.

        Args:
            window: `tumbling(...)`, `sliding(...)`, `session(...)` or `given()`.
            allowed_lateness: how long, in event time, a closed window still takes rows; each time
                it does, it is given again.
        """
        return WindowedStream(self, self._key, window, allowed_lateness)

    def _upstream(self) -> int:
        return self._stream.vertex

    def _columns(self) -> tuple[str, ...] | None:
        return self._stream.columns

    def _need(self, column: str, user: str) -> None:
        self._stream._need(column, user)

    def _need_event_time(self, user: str) -> EventTime:
        return self._stream._need_event_time(user)

    def _add(self, vertex: Vertex, columns: tuple[str, ...] | None) -> Stream:
        return self._stream.flow._stream(vertex, columns)

    def _same_flow(self, other: Self) -> None:
        self._stream.flow._own(other._stream)
