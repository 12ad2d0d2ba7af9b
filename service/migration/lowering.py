"""From a flow, a value, to the operators of one process.

Flow: Flow -> [lower] -> Dataflow + handles. A stateful vertex becomes the pair F and S; whether
bins move, and on how many processes the flow runs, changes nothing here.

Connectivity (a missing line means "never"; a line too many deadlocks the first migration):
  source: control -> rows identity
  F:      rows -> rows, control -> rows identities; F has no state port
  S:      control -> rows, control -> state, rows -> rows, state -> rows identities;
          rows -> state and state -> state do not exist
  sink:   rows -> acknowledgements identity

Invariants
  L1  Every process lowers the same flow to an equal graph.
  L2  A function of the user sees its first batch, an empty one, while the graph is built: a wrong
      column or return value is an error at start, not in the middle of the night.
  L3  S's gate is every sink and every stateful rows input that can be reached from its output.
Source: DESIGN §5 (ports), §7 (gate); reference megaphone §1.4 for what goes wrong otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from service.dataflow.flow import (
    AggregateVertex,
    ConcatVertex,
    Flow,
    MapVertex,
    SinkVertex,
    SourceVertex,
    upstreams_of,
)
from service.dataflow.graph import Dataflow
from service.dataflow.operator import Operator, Pact
from service.dataflow.operators import ConcatOperator, MapOperator, columns_of
from service.dataflow.progress.summary import PathSummary, identity
from service.dataflow.transport.credit import CreditClass
from service.errors import GraphError
from service.hashing import bin_bits_of
from service.migration.control_source import ControlSource
from service.migration.router import Router
from service.migration.state_host import StateHost
from service.statestore.aggregate import AggregateProgram
from service.statestore.columns import ColumnType
from service.statestore.vertex_store import VertexStore

_SAME: PathSummary = identity(1)
#: What a user's function is likely to raise when its columns are not what it thought.
_USER_ERRORS = (
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
_ARROW: dict[ColumnType, pa.DataType] = {"int64": pa.int64(), "float64": pa.float64()}


@dataclass(frozen=True, slots=True)
class Edges:
    """What a process supplies for the two ends of a flow."""

    source: Callable[[SourceVertex], Operator]
    #: Is given the columns of the rows that reach the sink.
    sink: Callable[[SinkVertex, pa.Schema], Operator]
    #: Columns a source gives, from the schema in the registry.
    schema: Callable[[SourceVertex], pa.Schema]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A process's operators, by the names their vertices have in the flow."""

    dataflow: Dataflow
    routers: dict[str, Router]
    hosts: dict[str, StateHost]


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
        self._outputs: dict[int, tuple[int, int]] = {}
        #: Vertex -> location that a gate upstream must wait for.
        self._gates: dict[int, int] = {}
        #: Vertex -> columns of its output.
        self._schemas: dict[int, pa.Schema] = {}
        self._lowered = Lowered(self._graph, {}, {})
        self._operators: dict[int, int] = {}

    def run(self) -> Lowered:
        self._control_port = (
            self._graph.add(
                "control",
                self._control,
                inputs=0,
                outputs=1,
                connectivity={},
                holds=frozenset({0}),
            ),
            0,
        )
        for number, vertex in enumerate(self._flow.vertices):
            match vertex:
                case SourceVertex():
                    self._source(number, vertex)
                case MapVertex():
                    self._schemas[number] = self._mapped(vertex)
                    logic = MapOperator(vertex.name, vertex.function, self._schemas[number])
                    self._stateless(number, vertex.name, logic, (vertex.upstream,))
                case ConcatVertex():
                    self._schemas[number] = self._common(vertex)
                    self._stateless(number, vertex.name, ConcatOperator(), vertex.upstreams)
                case AggregateVertex():
                    self._aggregate(number, vertex)
                case SinkVertex():
                    self._sink(number, vertex)
        self._set_gates()
        return self._lowered

    def _source(self, number: int, vertex: SourceVertex) -> None:
        operator = self._graph.add(
            vertex.name,
            self._edges.source(vertex),
            inputs=1,
            outputs=1,
            connectivity={(0, 0): _SAME},
            holds=frozenset({0}),
        )
        self._graph.connect(self._control_port, (operator, 0))
        self._outputs[number] = (operator, 0)
        self._schemas[number] = self._edges.schema(vertex)

    def _mapped(self, vertex: MapVertex) -> pa.Schema:
        """L2: what the function makes of an empty batch."""
        schema = self._schemas[vertex.upstream]
        try:
            result = vertex.function(pa.RecordBatch.from_pylist([], schema=schema))
        except _USER_ERRORS as error:
            raise GraphError(
                f"the function of {vertex.name!r} failed on an empty batch with columns "
                f"{schema.names}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(result, pa.RecordBatch):
            raise GraphError(
                f"the function of {vertex.name!r} must return a pyarrow.RecordBatch, "
                f"not {type(result).__name__}"
            )
        return result.schema

    def _common(self, vertex: ConcatVertex) -> pa.Schema:
        first, *others = (self._schemas[upstream] for upstream in vertex.upstreams)
        for other in others:
            if not first.equals(other):
                raise GraphError(
                    f"the streams of concat {vertex.name!r} differ: {columns_of(first)} and "
                    f"{columns_of(other)}"
                )
        return first

    def _dtypes(self, vertex: AggregateVertex) -> dict[str, ColumnType]:
        """Types of the columns the vertex reads; its key must be an integer."""
        schema = self._schemas[vertex.upstream]
        if vertex.key not in schema.names or schema.field(vertex.key).type != pa.int64():
            raise GraphError(
                f"{vertex.name!r} needs an int64 column {vertex.key!r} as its key; "
                f"the stream has {columns_of(schema)}"
            )
        known: dict[str, ColumnType] = {}
        for field in schema:
            if field.type == pa.int64():
                known[field.name] = "int64"
            elif field.type == pa.float64():
                known[field.name] = "float64"
        return known

    def _stateless(
        self, number: int, name: str, logic: Operator, upstreams: tuple[int, ...]
    ) -> None:
        operator = self._graph.add(
            name,
            logic,
            inputs=len(upstreams),
            outputs=1,
            connectivity={(port, 0): _SAME for port in range(len(upstreams))},
        )
        for port, upstream in enumerate(upstreams):
            self._graph.connect(self._outputs[upstream], (operator, port))
        self._outputs[number] = (operator, 0)

    def _aggregate(self, number: int, vertex: AggregateVertex) -> None:
        columns = [vertex.key]
        for aggregate in vertex.aggregates.values():
            if aggregate.column is not None and aggregate.column not in columns:
                columns.append(aggregate.column)
        router = Router(vertex.name, vertex.key, columns, self._bin_bits, self._control)
        routing = self._graph.add(
            f"{vertex.name}.F",
            router,
            inputs=2,
            outputs=1,
            connectivity={(0, 0): _SAME, (1, 0): _SAME},
        )
        program = AggregateProgram(vertex.key, dict(vertex.aggregates), self._dtypes(vertex))
        self._schemas[number] = pa.schema(
            [(vertex.key, pa.int64())]
            + [(name, _ARROW[dtype]) for name, dtype in program.output_dtypes.items()]
        )
        store = VertexStore(vertex.name, program, self._bin_bits)
        host = StateHost(store, vertex.key, self._control, self._bins)
        hosting = self._graph.add(
            f"{vertex.name}.S",
            host,
            inputs=3,
            outputs=2,
            connectivity={(2, 0): _SAME, (2, 1): _SAME, (0, 0): _SAME, (1, 0): _SAME},
            notified=True,
        )
        self._graph.connect(self._outputs[vertex.upstream], (routing, 0))
        self._graph.connect(self._control_port, (routing, 1))
        self._graph.connect((routing, 0), (hosting, 0), Pact.ROUTED, CreditClass.DATA)
        self._graph.connect((hosting, 1), (hosting, 1), Pact.ROUTED, CreditClass.STATE)
        self._graph.connect(self._control_port, (hosting, 2))
        self._lowered.routers[vertex.name] = router
        self._lowered.hosts[vertex.name] = host
        self._outputs[number] = (hosting, 0)
        self._operators[number] = hosting
        self._gates[number] = self._graph.target(hosting, 0)
        # Behind F, S and what they hold: nothing below its frontier asks the table again.
        self._control.readers.append(self._graph.source(hosting, 0))

    def _sink(self, number: int, vertex: SinkVertex) -> None:
        operator = self._graph.add(
            vertex.name,
            self._edges.sink(vertex, self._schemas[vertex.upstream]),
            inputs=1,
            outputs=1,
            connectivity={(0, 0): _SAME},
        )
        self._graph.connect(self._outputs[vertex.upstream], (operator, 0))
        self._gates[number] = self._graph.source(operator, 0)

    def _set_gates(self) -> None:
        """L3: each host watches what lies below it, up to the next stateful vertex and beyond."""
        for number, vertex in enumerate(self._flow.vertices):
            if isinstance(vertex, AggregateVertex):
                host = self._lowered.hosts[vertex.name]
                host.gate = [
                    self._gates[below] for below in self._below(number) if below in self._gates
                ]
                for location in host.gate:
                    self._graph.watch(self._operators[number], location)

    def _below(self, number: int) -> list[int]:
        """Vertices reachable from `number`, without itself."""
        found: list[int] = []
        for other, vertex in enumerate(self._flow.vertices):
            if any(up == number or up in found for up in upstreams_of(vertex)):
                found.append(other)
        return found
