"""From a flow, a value, to the operators of one process.

Flow: Flow -> [lower] -> Dataflow + handles. A stateful vertex becomes the pair F and S; whether
bins move, and on how many processes the flow runs, changes nothing here.

Connectivity (a missing line means "never"; a line too many deadlocks the first migration):
  source: control -> rows identity
  F:      rows -> rows, control -> rows identities; F has no state port
  S:      control -> rows, control -> state, rows -> rows, state -> rows identities;
          rows -> state and state -> state do not exist
  sink:   rows -> acknowledgements identity
  feedback: rows -> rows raises the counter; what has no state is lowered in `stateless.py`
The control source has an output for each depth of loops; F and S read the one of their own.

Invariants
  L1  Every process lowers the same flow to an equal graph.
  L2  A function of the user sees its first batch, an empty one, while the graph is built: a wrong
      column or return value is an error at start, not in the middle of the night.
  L3  S's gate is what its rows come to first: sinks of the process, inputs behind an exchange.
Source: DESIGN §5 (ports), §7 (gate); reference megaphone §1.4 for what goes wrong otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from service.dataflow.delaying import DelayOperator
from service.dataflow.event_time import EventTime
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import loops_of
from service.dataflow.graph import Dataflow
from service.dataflow.loops import FeedbackOperator
from service.dataflow.operator import Operator, Pact
from service.dataflow.operators import ConcatOperator, columns_of
from service.dataflow.progress.summary import PathSummary, feedback, identity
from service.dataflow.row_vertices import Side, SideVertex
from service.dataflow.sides import SidesOperator
from service.dataflow.time_paths import lost_at
from service.dataflow.transport.credit import CreditClass
from service.dataflow.vertices import (
    AggregateVertex,
    DistinctVertex,
    FeedbackVertex,
    JoinVertex,
    KeyedVertex,
    SinkVertex,
    SourceVertex,
    StatefulMapVertex,
    TimedVertex,
    upstreams_of,
)
from service.errors import GraphError
from service.hashing import bin_bits_of
from service.migration.control_source import ControlSource
from service.migration.gates import gate_of
from service.migration.keyed_parts import KeyedParts
from service.migration.router import Router
from service.migration.state_host import StateHost
from service.migration.stateful import keyed_parts
from service.migration.stateless import StatelessLowering
from service.migration.stream_times import heard_sources, late_of, stream_time, with_late
from service.migration.timed_host import TimedHost
from service.statestore.hosted import HostedStore
from service.statestore.timed import NEVER, as_timed

_SAME: PathSummary = identity(1)
#: A port of an operator.
_Port = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Edges:
    """What a process supplies for the two ends of a flow."""

    source: Callable[[SourceVertex], Operator]
    #: Is given the columns of the rows that reach the sink.
    sink: Callable[[SinkVertex, pa.Schema], Operator]
    #: Columns a source gives, from the schema in the registry.
    schema: Callable[[SourceVertex], pa.Schema]
    #: What keeps the state of a vertex, given what the flow would have.
    store: Callable[[HostedStore], HostedStore] = lambda store: store
    #: W of a vertex with event time as of the checkpoint that is restored, by its name.
    watermark: Callable[[str], int | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Lowered:
    """A process's operators, by the names their vertices have in the flow."""

    dataflow: Dataflow
    routers: dict[str, Router]
    hosts: dict[str, StateHost]
    delays: dict[str, DelayOperator]
    #: Location of every vertex's output; a sink's stands for what was acknowledged.
    places: dict[str, int]
    #: Inputs of every S at which rows and words about event time arrive, by location.
    arrivals: list[int]


def lower(flow: Flow, bins: int, control: ControlSource, edges: Edges) -> Lowered:
    """Build the operators of `flow` for one process.

    Args:
        flow: the value to run; it is checked.
        bins: number of bins, a power of two.
        control: the process's control source, placed first in the graph.
        edges: makes the operators that touch Kafka, or fakes of them.

    Raises:
        GraphError: the flow cannot run.
    """
    flow.check()
    return _Lowering(flow, bins, control, edges).run()


class _Lowering:
    """The state of one lowering."""

    def __init__(self, flow: Flow, bins: int, control: ControlSource, edges: Edges) -> None:
        self._flow = flow
        self._bins = bins
        self._bin_bits = bin_bits_of(bins)
        self._control = control
        self._edges = edges
        self._graph = Dataflow()
        #: Vertex -> (operator, port) of its output.
        self._outputs: dict[int, _Port] = {}
        #: The loops around each vertex, outermost first.
        self._loops = loops_of(flow.vertices)
        #: Vertex -> columns of its output.
        self._schemas: dict[int, pa.Schema] = {}
        #: Event time of each vertex's output, as far as it is known to have one.
        self._event_times: list[EventTime | None] = []
        self._stateless = StatelessLowering(
            self._graph, flow.vertices, self._outputs, self._schemas, control.table.workers
        )
        self._lowered = Lowered(self._graph, {}, {}, self._stateless.delays, {}, [])
        self._operators: dict[int, int] = {}
        #: Source -> output of what receives its words here.
        self._words: dict[int, _Port] = {}
        #: Sources above each vertex with event time, whose words it hears.
        self._heard = heard_sources(flow.vertices)
        #: Timed vertices whose late rows the flow asks for.
        self._late = late_of(flow.vertices)
        self._late_schemas: dict[int, pa.Schema] = {}

    def run(self) -> Lowered:
        depths = list(range(1, 1 + max(map(self._depth, range(len(self._loops))))))
        self._control_operator = self._graph.add(
            "control",
            self._control,
            inputs=0,
            outputs=len(depths),
            connectivity={},
            depth=([], depths),
            holds=frozenset(range(len(depths))),
        )
        for number, vertex in enumerate(self._flow.vertices):
            match vertex:
                case SourceVertex():
                    self._source(number, vertex)
                case (
                    AggregateVertex()
                    | StatefulMapVertex()
                    | DistinctVertex()
                    | JoinVertex()
                    | TimedVertex()
                ):
                    self._keyed(number, vertex)
                case FeedbackVertex():
                    self._feedback(number, vertex)
                case SideVertex(side=Side.LATE):
                    self._outputs[number] = self._operators[vertex.upstream], 2
                    self._schemas[number] = self._late_schemas[vertex.upstream]
                case SinkVertex():
                    self._sink(number, vertex)
                case _:
                    self._stateless.add(number, vertex)
            given = [self._event_times[up] for up in upstreams_of(vertex) if up < number]
            self._event_times.append(stream_time(vertex, given, self._schemas.get(number)))
        for number, vertex in enumerate(self._flow.vertices):
            if isinstance(vertex, FeedbackVertex):
                self._close(number, vertex)
        self._set_gates()
        for number, vertex in enumerate(self._flow.vertices):
            if isinstance(vertex, SinkVertex):
                self._lowered.places[vertex.name] = self._graph.source(self._operators[number], 0)
            else:
                self._lowered.places[vertex.name] = self._graph.source(*self._outputs[number])
        return self._lowered

    def _source(self, number: int, vertex: SourceVertex) -> None:
        heard = any(number in sources for sources in self._heard.values())
        outputs = 1 + heard
        operator = self._graph.add(
            vertex.name,
            self._edges.source(vertex),
            inputs=1,
            outputs=outputs,
            connectivity={(0, output): _SAME for output in range(outputs)},
            holds=frozenset(range(outputs)),
        )
        self._graph.connect(self._control_at(1), (operator, 0))
        if heard:
            receiver = self._graph.add(
                f"{vertex.name}.words",
                ConcatOperator(),
                inputs=1,
                outputs=1,
                connectivity={(0, 0): _SAME},
            )
            # Not the window of rows: W would stand still just while most of them are under way.
            self._graph.connect((operator, 1), (receiver, 0), Pact.ROUTED, CreditClass.STATE)
            self._words[number] = receiver, 0
        self._outputs[number] = (operator, 0)
        self._schemas[number] = self._edges.schema(vertex)

    def _depth(self, number: int) -> int:
        """Length of the timestamps at a vertex's output."""
        return 1 + len(self._loops[number])

    def _feedback(self, number: int, vertex: FeedbackVertex) -> None:
        """The operator only: the body that it reads is not built yet."""
        depth = self._depth(number)
        operator = self._graph.add(
            vertex.name,
            FeedbackOperator(vertex.rounds_max),
            inputs=1,
            outputs=1,
            connectivity={(0, 0): feedback(depth)},
            depth=depth,
        )
        self._outputs[number] = (operator, 0)
        self._schemas[number] = self._schemas[vertex.loop]

    def _close(self, number: int, vertex: FeedbackVertex) -> None:
        """Connect a feedback with the end of its body."""
        entered, again = self._schemas[number], self._schemas[vertex.upstream]
        if not again.equals(entered):
            raise GraphError(
                f"what goes round in {vertex.name!r} has columns {columns_of(again)}, but what "
                f"enters the loop has {columns_of(entered)}; select or cast at the body's end"
            )
        operator, _ = self._outputs[number]
        self._graph.connect(self._outputs[vertex.upstream], (operator, 0), bounded=False)

    def _control_at(self, depth: int) -> _Port:
        """The control stream for operators whose timestamps have the length `depth`."""
        return self._control_operator, depth - 1

    def _keyed(self, number: int, vertex: KeyedVertex) -> None:
        schemas = [self._schemas[upstream] for upstream in upstreams_of(vertex)]
        times = self._times_above(vertex) if isinstance(vertex, TimedVertex) else ()
        parts = keyed_parts(vertex, schemas, self._bin_bits, times)
        self._schemas[number] = parts.schema
        depth = self._depth(number)
        control, same = self._control_at(depth), identity(depth)
        upstream = self._outputs[upstreams_of(vertex)[0]]
        if parts.sides is not None:
            both = SidesOperator(parts.sides)
            self._stateless.operator(number, f"{vertex.name}.both", both, upstreams_of(vertex))
            upstream = self._outputs[number]
        late = None
        columns = parts.columns
        if number in self._late:
            late = self._late_schemas[number] = parts.late_columns(schemas[0])
            columns = columns if parts.late is not None else with_late(columns, late)
        router = Router(
            vertex.name,
            parts.key,
            columns,
            self._bin_bits,
            self._control,
            parts.required,
            parts.text_key,
            None if number in self._late else parts.combine,
        )
        routing = self._graph.add(
            f"{vertex.name}.F",
            router,
            inputs=2,
            outputs=1,
            connectivity={(0, 0): same, (1, 0): same},
            depth=depth,
        )
        store = self._edges.store(parts.store)
        timed = isinstance(vertex, TimedVertex)
        host = (
            self._timed_host(number, store, parts, times, late)
            if timed
            else StateHost(store, parts.key, self._control, self._bins, vertex.order)
        )
        inputs, outputs = 3 + timed, 2 + (late is not None)
        rows_out = [output for output in range(outputs) if output != 1]
        hosting = self._graph.add(
            f"{vertex.name}.S",
            host,
            inputs=inputs,
            outputs=outputs,
            connectivity={(2, 1): same} | {(i, o): same for i in range(inputs) for o in rows_out},
            depth=depth,
            notified=True,
        )
        for source in self._heard.get(number, ()):
            self._graph.connect(self._words[source], (hosting, 3))
        self._graph.connect(upstream, (routing, 0))
        self._graph.connect(control, (routing, 1))
        self._graph.connect((routing, 0), (hosting, 0), Pact.ROUTED, CreditClass.DATA)
        self._graph.connect((hosting, 1), (hosting, 1), Pact.ROUTED, CreditClass.STATE)
        self._graph.connect(control, (hosting, 2))
        self._lowered.routers[vertex.name] = router
        self._lowered.hosts[vertex.name] = host
        self._outputs[number] = (hosting, 0)
        self._operators[number] = hosting
        arriving = (0, 3) if timed else (0,)
        self._lowered.arrivals.extend(self._graph.target(hosting, port) for port in arriving)
        # Behind F, S and what they hold: nothing below its frontier asks the table again.
        self._control.readers.append(self._graph.source(hosting, 0))

    def _timed_host(
        self,
        number: int,
        store: HostedStore,
        parts: KeyedParts,
        times: Sequence[EventTime],
        late: pa.Schema | None,
    ) -> TimedHost:
        name = self._flow.vertices[number].name
        watermark = self._edges.watermark(name)
        return TimedHost(
            as_timed(store),
            parts.key,
            self._control,
            self._bins,
            sources=self._heard[number],
            watermark=NEVER if watermark is None else watermark,
            delay=max(time.delay for time in times),
            sorts=parts.sorted,
            late=None if late is None else late.names,
        )

    def _times_above(self, vertex: TimedVertex) -> list[EventTime]:
        """Event times of the streams it reads.

        Raises:
            GraphError: one has none, or they differ in their units.
        """
        times: list[EventTime] = []
        for upstream in vertex.upstreams:
            time = self._event_times[upstream]
            if time is None:
                why = lost_at(upstream, self._flow.vertices, self._event_times)
                raise GraphError(f"{vertex.name!r} needs an event time: {why}")
            times.append(time)
        if len({time.unit for time in times}) > 1:
            listed = ", ".join(f"{time.column!r} in {time.unit}" for time in times)
            raise GraphError(
                f"{vertex.name!r} reads event times of different units, {listed}; cast them "
                "before they enter the flow"
            )
        return times

    def _sink(self, number: int, vertex: SinkVertex) -> None:
        operator = self._graph.add(
            vertex.name,
            self._edges.sink(vertex, self._schemas[vertex.upstream]),
            inputs=1,
            outputs=1,
            connectivity={(0, 0): _SAME},
        )
        self._graph.connect(self._outputs[vertex.upstream], (operator, 0))
        self._operators[number] = operator

    def _set_gates(self) -> None:
        """L3: each host watches what lies below it, up to its process's sinks and exchanges."""
        sinks = [
            self._operators[number]
            for number, vertex in enumerate(self._flow.vertices)
            if isinstance(vertex, SinkVertex)
        ]
        for number, vertex in enumerate(self._flow.vertices):
            if vertex.name in self._lowered.hosts:
                host, operator = self._lowered.hosts[vertex.name], self._operators[number]
                gate = gate_of(self._graph, operator, sinks)
                host.gate, host.near = gate.far, gate.near
                for location in gate.far:
                    self._graph.watch(operator, location)
