"""The part of lowering that knows the operators without state.

Flow: lowering -> [StatelessLowering] -> operators and channels in its graph.

Connectivity (a missing line means "never"):
  map, flat map, inspect, delay, capture, concat: each rows input -> rows identity
  branch, and whatever has an errors output: rows -> each output identity
  exchange: rows -> rows identity at the sender and at the receiver
  enter, leave: rows -> rows append a counter, drop it
L2 of lowering is kept here, by `trials.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from service.dataflow.capturing import CaptureOperator
from service.dataflow.delaying import DelayOperator
from service.dataflow.flow_shape import loops_of
from service.dataflow.graph import Dataflow
from service.dataflow.masks import Keep
from service.dataflow.operator import Operator, Pact
from service.dataflow.operators import (
    BranchOperator,
    ConcatOperator,
    FlatMapOperator,
    InspectOperator,
    MapOperator,
    columns_of,
    error_schema,
)
from service.dataflow.progress.summary import PathSummary, egress, identity, ingress
from service.dataflow.row_vertices import (
    BranchVertex,
    CaptureVertex,
    DelayVertex,
    ExchangeVertex,
    FlatMapVertex,
    InspectVertex,
    Side,
    SideVertex,
)
from service.dataflow.spreading import BroadcastOperator, ExchangeOperator
from service.dataflow.transport.credit import CreditClass
from service.dataflow.vertices import (
    ConcatVertex,
    EnterVertex,
    LeaveVertex,
    MapVertex,
    StatelessVertex,
    Vertex,
)
from service.errors import GraphError
from service.migration.trials import tried, tried_all, tried_delay

#: A port of an operator.
_Port = tuple[int, int]
#: Vertices of one operator and one input that leave times as they are.
_Rowwise = MapVertex | FlatMapVertex | BranchVertex | InspectVertex | CaptureVertex | DelayVertex


class StatelessLowering:
    """Adds vertices without state to a graph under construction."""

    def __init__(
        self,
        graph: Dataflow,
        vertices: Sequence[Vertex],
        outputs: dict[int, _Port],
        schemas: dict[int, pa.Schema],
        workers: int,
    ) -> None:
        """Share the lowering's `graph`, and by vertex its `outputs` and their `schemas`."""
        self._graph = graph
        self._loops = loops_of(vertices)
        self._outputs = outputs
        self._schemas = schemas
        self._workers = workers
        #: Vertices whose errors the flow asks for.
        self._caught = {
            vertex.upstream
            for vertex in vertices
            if isinstance(vertex, SideVertex) and vertex.side is Side.ERRORS
        }
        #: Columns that a vertex reads, by vertex.
        self._given: dict[int, pa.Schema] = {}
        #: Delays by name: they hold rows.
        self.delays: dict[str, DelayOperator] = {}

    def add(self, number: int, vertex: StatelessVertex) -> None:
        """Add vertex `number`; all that it reads is there.

        Raises:
            GraphError: its function fails on an empty batch, or its streams do not fit.
        """
        match vertex:
            case ConcatVertex():
                self._schemas[number] = self._common(vertex)
                self.operator(number, vertex.name, ConcatOperator(), vertex.upstreams)
            case EnterVertex():
                self._border(number, vertex, ingress(self._depth(vertex.upstream)))
            case LeaveVertex():
                self._border(number, vertex, egress(self._depth(vertex.upstream)))
            case SideVertex():
                self._side(number, vertex)
            case ExchangeVertex():
                self._exchange(number, vertex)
            case _:
                given = self._schemas[vertex.upstream]
                self._schemas[number], logic = self._rowwise(number, vertex, given)
                outputs = 1 + isinstance(vertex, BranchVertex) + (number in self._caught)
                self.operator(number, vertex.name, logic, (vertex.upstream,), outputs=outputs)

    def _rowwise(
        self, number: int, vertex: _Rowwise, given: pa.Schema
    ) -> tuple[pa.Schema, Operator]:
        """Columns and logic of a vertex of one operator and one input."""
        errors = number in self._caught
        match vertex:
            case MapVertex(name=name, function=function):
                schema = tried(name, given, function).schema
                return schema, MapOperator(name, function, schema, errors=errors)
            case FlatMapVertex(name=name, function=function):
                schema = vertex.schema
                for part in tried_all(name, given, function):
                    schema = part.schema if schema is None else schema
                    if not part.schema.equals(schema):
                        raise GraphError(
                            f"flat_map {name!r} gave columns {columns_of(part.schema)} for an "
                            f"empty batch, but {columns_of(schema)} were declared or came before"
                        )
                if schema is None:
                    raise GraphError(
                        f"flat_map {name!r} gave no batch for an empty one, so its columns are "
                        "unknown; say them: schema=..."
                    )
                return schema, FlatMapOperator(name, function, schema, errors=errors)
            case BranchVertex(name=name, mask=mask):
                tried(name, given, Keep(mask))
                return given, BranchOperator(name, mask, errors=errors)
            case InspectVertex():
                return given, InspectOperator(vertex.name, vertex.function)
            case CaptureVertex():
                return given, CaptureOperator(vertex.name, vertex.folder, given)
            case DelayVertex():
                delay = self.delays[vertex.name] = DelayOperator(vertex.name, vertex.until)
                tried_delay(vertex)
                return given, delay

    def _side(self, number: int, vertex: SideVertex) -> None:
        """RV1: a port that is there already. Errors leave by the last one."""
        operator, _ = self._outputs[vertex.upstream]
        if vertex.side is Side.OTHERS:
            self._schemas[number] = self._schemas[vertex.upstream]
            self._outputs[number] = operator, 1
            return
        built = self._graph.operators[operator]
        self._schemas[number] = error_schema(self._given[vertex.upstream])
        self._outputs[number] = operator, built.outputs - 1

    def _exchange(self, number: int, vertex: ExchangeVertex) -> None:
        schema = self._schemas[number] = self._schemas[vertex.upstream]
        by = vertex.by
        for field in schema:
            if pa.types.is_dictionary(field.type):
                raise GraphError(
                    f"{vertex.name!r} cannot send the dictionary-encoded column {field.name!r}; "
                    "cast it to its value type before"
                )
        if by is not None and not (
            by in schema.names and pa.types.is_integer(schema.field(by).type)
        ):
            raise GraphError(
                f"exchange {vertex.name!r} needs an integer column {by!r}; the stream has "
                f"{columns_of(schema)}"
            )
        workers = self._workers
        sender = BroadcastOperator(workers) if by is None else ExchangeOperator(by, workers)
        self.operator(number, f"{vertex.name}.send", sender, (vertex.upstream,))
        sending = self._outputs[number]
        depth = self._depth(number)
        receiving = self._graph.add(
            vertex.name,
            ConcatOperator(),
            inputs=1,
            outputs=1,
            connectivity={(0, 0): identity(depth)},
            depth=depth,
        )
        self._graph.connect(sending, (receiving, 0), Pact.ROUTED, CreditClass.DATA)
        self._outputs[number] = receiving, 0

    def _depth(self, number: int) -> int:
        """Length of the timestamps at a vertex's output."""
        return 1 + len(self._loops[number])

    def _border(self, number: int, vertex: EnterVertex | LeaveVertex, path: PathSummary) -> None:
        """A loop's border: the output port sends at the time its path leads to."""
        self._schemas[number] = self._schemas[vertex.upstream]
        self.operator(number, vertex.name, ConcatOperator(), (vertex.upstream,), path=path)

    def operator(
        self,
        number: int,
        name: str,
        logic: Operator,
        upstreams: tuple[int, ...],
        *,
        outputs: int = 1,
        path: PathSummary | None = None,
    ) -> None:
        """Add an operator with `path`, by default the identity, from all inputs to all outputs."""
        depth = self._depth(number)
        path = identity(depth) if path is None else path
        inputs = len(upstreams)
        operator = self._graph.add(
            name,
            logic,
            inputs=inputs,
            outputs=outputs,
            connectivity={(i, o): path for i in range(inputs) for o in range(outputs)},
            depth=([self._depth(each) for each in upstreams], [depth] * outputs),
            notified=isinstance(logic, DelayOperator | CaptureOperator),
        )
        for port, upstream in enumerate(upstreams):
            self._graph.connect(self._outputs[upstream], (operator, port))
        self._outputs[number] = (operator, 0)
        self._given[number] = self._schemas[upstreams[0]]

    def _common(self, vertex: ConcatVertex) -> pa.Schema:
        first, *others = (self._schemas[upstream] for upstream in vertex.upstreams)
        for other in others:
            if not first.equals(other):
                raise GraphError(
                    f"the streams of concat {vertex.name!r} differ: {columns_of(first)} and "
                    f"{columns_of(other)}"
                )
        return first
