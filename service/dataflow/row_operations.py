"""What a stream can do without state, batch by batch.

Flow: user's module -> [RowOperations], a part of `Stream` -> vertices. It knows neither the flow
nor the stream: each operation makes a vertex and hands it to `_then`.

Invariants
  RO1  An operation adds exactly one vertex for each stream it returns, under the name it was given.
  RO2  Columns are known (`columns`) or decided by a function (None); an unknown one is refused here
       if they are known, and while the graph is built if not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.vertices import BatchFunction, MapVertex, MaskFunction, Vertex
from service.errors import GraphError


class RowOperations(ABC):
    """The stateless operations of a stream."""

    #: Number of the vertex whose output this is.
    vertex: int
    #: Names of the columns; None when a user's function decides them.
    columns: tuple[str, ...] | None

    @abstractmethod
    def _then(self, vertex: Vertex, columns: tuple[str, ...] | None) -> Self:
        """The output of a new `vertex`.

        Raises:
            GraphError: its name is taken.
        """

    def map_batches(
        self, name: str, function: BatchFunction, columns: Sequence[str] | None = None
    ) -> Self:
        """Apply `function` to every record batch; say its output `columns` to have them checked."""
        vertex = MapVertex(name, function, self.vertex)
        return self._then(vertex, tuple(columns) if columns else None)

    def filter(self, name: str, mask: MaskFunction) -> Self:
        """Keep the rows for which `mask(batch)`, a boolean array, is true."""

        def keep(rows: pa.RecordBatch) -> pa.RecordBatch:
            return rows.filter(mask(rows))

        return self._then(MapVertex(name, keep, self.vertex), self.columns)

    def select(self, name: str, *columns: str) -> Self:
        """Keep only `columns`, in this order."""
        for column in columns:
            self._need(column, name)

        def project(rows: pa.RecordBatch) -> pa.RecordBatch:
            return rows.select(list(columns))

        return self._then(MapVertex(name, project, self.vertex), columns)

    def branch(self, name: str, mask: MaskFunction) -> tuple[Self, Self]:
        """Two streams: the rows for which `mask(batch)` is true, and the others.

        Cost: the mask is computed once for each of the two.
        """

        def others(rows: pa.RecordBatch) -> pa.RecordBatch:
            return rows.filter(pc.invert(mask(rows)))

        rest = self._then(MapVertex(f"{name}.else", others, self.vertex), self.columns)
        return self.filter(name, mask), rest

    def _need(self, column: str, user: str) -> None:
        if self.columns is not None and column not in self.columns:
            raise GraphError(f"{user!r} needs column {column!r}; the stream has {self.columns}")
