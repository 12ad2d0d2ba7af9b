"""The part of lowering that knows the operators without state.

Flow: lowering -> [StatelessLowering] -> operators and channels in its graph.

Connectivity (a missing line means "never"):
  map, concat: each rows input -> rows identity
  enter, leave: rows -> rows append a counter, drop it
L2 of lowering is kept here: every function of the user is tried on an empty batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from service.dataflow.graph import Dataflow
from service.dataflow.operator import Operator
from service.dataflow.operators import ConcatOperator, MapOperator, columns_of
from service.dataflow.progress.summary import PathSummary, egress, identity, ingress
from service.dataflow.vertices import (
    ConcatVertex,
    EnterVertex,
    LeaveVertex,
    MapVertex,
    StatelessVertex,
)
from service.errors import GraphError

#: A port of an operator.
_Port = tuple[int, int]
#: What a user's function is likely to raise when its columns are not what it thought.
_USER_ERRORS = (
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class StatelessLowering:
    """Adds vertices without state to a graph under construction."""

    def __init__(
        self,
        graph: Dataflow,
        loops: Sequence[tuple[int, ...]],
        outputs: dict[int, _Port],
        schemas: dict[int, pa.Schema],
    ) -> None:
        """Share the lowering's `graph`, and by vertex its `loops`, `outputs` and `schemas`."""
        self._graph = graph
        self._loops = loops
        self._outputs = outputs
        self._schemas = schemas

    def add(self, number: int, vertex: StatelessVertex) -> None:
        """Add vertex `number`; all that it reads is there.

        Raises:
            GraphError: its function fails on an empty batch, or its streams do not fit.
        """
        match vertex:
            case MapVertex():
                self._schemas[number] = self._mapped(vertex)
                logic = MapOperator(vertex.name, vertex.function, self._schemas[number])
                self._rowwise(number, vertex.name, logic, (vertex.upstream,))
            case ConcatVertex():
                self._schemas[number] = self._common(vertex)
                self._rowwise(number, vertex.name, ConcatOperator(), vertex.upstreams)
            case EnterVertex():
                path = ingress(self._depth(vertex.upstream))
                self._border(number, vertex, path)
            case LeaveVertex():
                self._border(number, vertex, egress(self._depth(vertex.upstream)))

    def _depth(self, number: int) -> int:
        """Length of the timestamps at a vertex's output."""
        return 1 + len(self._loops[number])

    def _rowwise(self, number: int, name: str, logic: Operator, upstreams: tuple[int, ...]) -> None:
        """An operator that leaves times as they are."""
        depth = self._depth(number)
        same = identity(depth)
        self._operator(
            number, name, logic, upstreams, {(port, 0): same for port in range(len(upstreams))}
        )

    def _border(self, number: int, vertex: EnterVertex | LeaveVertex, path: PathSummary) -> None:
        """A loop's border: the output port sends at the time its path leads to."""
        self._schemas[number] = self._schemas[vertex.upstream]
        self._operator(number, vertex.name, ConcatOperator(), (vertex.upstream,), {(0, 0): path})

    def _operator(
        self,
        number: int,
        name: str,
        logic: Operator,
        upstreams: tuple[int, ...],
        connectivity: Mapping[tuple[int, int], PathSummary],
    ) -> None:
        """Add an operator of one output, and connect it."""
        operator = self._graph.add(
            name,
            logic,
            inputs=len(upstreams),
            outputs=1,
            connectivity=connectivity,
            depth=([self._depth(each) for each in upstreams], [self._depth(number)]),
        )
        for port, upstream in enumerate(upstreams):
            self._graph.connect(self._outputs[upstream], (operator, port))
        self._outputs[number] = (operator, 0)

    def _mapped(self, vertex: MapVertex) -> pa.Schema:
        """What the function makes of an empty batch."""
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
