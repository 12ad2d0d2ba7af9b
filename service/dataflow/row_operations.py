"""What a stream can do without state, batch by batch.

Flow: user's module -> [RowOperations], a part of `Stream` -> vertices. It knows neither the flow
nor the stream: each operation makes a vertex and hands it to `_then`.

Invariants
  RO1  An operation adds exactly one vertex for each stream it returns, under the name it was given.
  RO2  Columns are known (`columns`) or decided by a function (None); an unknown one is refused here
       if they are known, and while the graph is built if not.

Example:
    >>> import polars as pl
    >>> import pyarrow.compute as pc
    >>> from service.dataflow.flow import Flow
    >>> from service.dataflow.vertices import KafkaSource
    >>> fields = ["auction", "bidder", "price"]
    >>> bids = Flow("bids").source("bids", KafkaSource(["events"], record="bid", fields=fields))
    >>> large = bids.filter("large", pc.field("price") > 10_000)
    >>> euros = large.with_columns("euros", euros=pl.col("price") / 100)
    >>> euros.select("narrow", "auction", "euros").columns
    ('auction', 'euros')
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Self, TypeAlias

import pyarrow as pa

from service.dataflow.delaying import Rounding
from service.dataflow.expressions import Projection, mask_of, on_frames
from service.dataflow.masks import Keep
from service.dataflow.operators import ERROR_COLUMN
from service.dataflow.probe import Probe
from service.dataflow.record_functions import (
    Columns,
    FilterRows,
    FlatMapRows,
    MapRows,
    Record,
    schema_of,
)
from service.dataflow.row_vertices import (
    BatchFunction,
    BranchVertex,
    CaptureVertex,
    DelayVertex,
    ExchangeVertex,
    FlatFunction,
    FlatMapVertex,
    Inspection,
    InspectVertex,
    MaskFunction,
    Postponement,
    Side,
    SideVertex,
)
from service.dataflow.vertices import MapVertex, TimedVertex, Vertex
from service.errors import GraphError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.compute as pc

    #: What picks rows: a function of batches, or an expression.
    Condition: TypeAlias = MaskFunction | pc.Expression | pl.Expr
    #: What makes a column: the name of one, or an expression.
    Column: TypeAlias = str | pc.Expression | pl.Expr


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

    @abstractmethod
    def _made_by(self) -> Vertex:
        """The vertex whose output this is."""

    # Functions of batches ------------------------------------------------------------------------

    def map_batches(
        self, name: str, function: BatchFunction, columns: Sequence[str] | None = None
    ) -> Self:
        """Apply `function` to every record batch; say its output `columns` to have them checked.

        It is tried on an empty batch when the job starts, and must always return the columns it
        returned then.

        Cost: that of the function, and some 10 us a batch.
        """
        vertex = MapVertex(name, function, self.vertex)
        return self._then(vertex, tuple(columns) if columns else None)

    def map_frames(
        self,
        name: str,
        function: Callable[[pl.DataFrame], pl.DataFrame],
        columns: Sequence[str] | None = None,
    ) -> Self:
        """Apply `function` to every batch as a Polars frame, which shares the batch's memory.

        Cost: that of the function, and about 100 us a batch; text is copied both ways, 100 ns a
        row.

        Example:
            >>> import polars as pl
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> bids = Flow("f").source("in", KafkaSource(["t"], record="bid", fields=["price"]))
            >>> def in_euros(frame: pl.DataFrame) -> pl.DataFrame:
            ...     return frame.select(euros=pl.col("price") / 100)
            >>> bids.map_frames("euros", in_euros, columns=["euros"]).columns
            ('euros',)
        """
        vertex = MapVertex(name, on_frames(function), self.vertex, "map (Polars)")
        return self._then(vertex, tuple(columns) if columns else None)

    def flat_map(
        self, name: str, function: FlatFunction, *, schema: pa.Schema | None = None
    ) -> Self:
        """Apply `function`, which returns any number of batches, to every batch.

        A generator is asked for one batch at a time, as there is room for them.

        Args:
            name: of the vertex.
            function: from a batch to batches, all with the same columns.
            schema: of the results; None: what it gives for an empty batch has it.

        Example:
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> bids = Flow("f").source("in", KafkaSource(["t"], record="bid", fields=["price"]))
            >>> twice = bids.flat_map("twice", lambda batch: [batch, batch])
        """
        names = None if schema is None else tuple(schema.names)
        return self._then(FlatMapVertex(name, function, self.vertex, schema), names)

    # Rows and columns ------------------------------------------------------------------------

    def filter(self, name: str, condition: Condition) -> Self:
        """Keep the rows for which `condition` is true; where it is null they are dropped.

        Args:
            name: of the vertex.
            condition: a function from a batch to a boolean array, an Arrow expression
                (`pc.field("price") > 10`), or a Polars one (`pl.col("price") > 10`).

        Raises:
            GraphError: the condition is none of these.

        Cost: 10 us a batch with one Arrow kernel, by function or expression; 40 with an Arrow
        expression that has options (`isin`); 70 with a Polars expression.
        """
        keep = Keep(mask_of(name, condition))
        return self._then(MapVertex(name, keep, self.vertex, "filter"), self.columns)

    def select(self, name: str, *columns: Column | Sequence[Column], **named: Column) -> Self:
        """Only these columns, in this order.

        Args:
            name: of the vertex.
            columns: names, or Polars expressions, or lists of them.
            named: new names of columns, or of what Arrow and Polars expressions give.

        Raises:
            GraphError: a column is unknown, comes twice, or is no column.

        Example:
            >>> import pyarrow.compute as pc
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> source = KafkaSource(["t"], record="bid", fields=["auction", "price"])
            >>> bids = Flow("f").source("in", source)
            >>> bids.select("euros", "auction", euros=pc.field("price") / 100).columns
            ('auction', 'euros')
        """
        projection = Projection.of(name, columns, named)
        for column in sorted(projection.needs):
            self._need(column, name)
        vertex = MapVertex(name, projection.select(), self.vertex, "select")
        return self._then(vertex, projection.names)

    def with_columns(self, name: str, *columns: Column | Sequence[Column], **named: Column) -> Self:
        """All columns, and these beside them or in the place of those with the same name.

        Args and raises as `select`. Every expression sees the columns as they came.
        """
        projection = Projection.of(name, columns, named)
        for column in sorted(projection.needs):
            self._need(column, name)
        vertex = MapVertex(name, projection.add(), self.vertex, "with columns")
        if self.columns is None or projection.names is None:
            return self._then(vertex, None)
        return self._then(vertex, tuple(dict.fromkeys((*self.columns, *projection.names))))

    def branch(self, name: str, condition: Condition) -> tuple[Self, Self]:
        """Two streams: the rows for which `condition` is true, and the others.

        The condition, as in `filter`, is computed once. The second stream is called `name.else`.
        """
        taken = self._then(BranchVertex(name, mask_of(name, condition), self.vertex), self.columns)
        others = SideVertex(f"{name}.else", Side.OTHERS, taken.vertex)
        return taken, taken._then(others, self.columns)

    # Functions of single records -----------------------------------------------------------------

    def map_rows(self, name: str, function: Callable[[Record], Record], columns: Columns) -> Self:
        """Apply `function` to each record, a dict, and take the dict it returns as the new one.

        Args:
            name: of the vertex.
            function: is not called before the first record comes.
            columns: of the results: a schema, or types by name. Each result has exactly these.

        Cost: 1 to 2 us a record beside the function, a hundred times that of an expression.

        Example:
            >>> import pyarrow as pa
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> bids = Flow("f").source("in", KafkaSource(["t"], record="bid", fields=["price"]))
            >>> def in_euros(bid: dict) -> dict:
            ...     return {"euros": bid["price"] / 100}
            >>> bids.map_rows("euros", in_euros, {"euros": pa.float64()}).columns
            ('euros',)
        """
        schema = schema_of(columns)
        vertex = MapVertex(name, MapRows(function, schema), self.vertex, "map rows")
        return self._then(vertex, tuple(schema.names))

    def flat_map_rows(
        self, name: str, function: Callable[[Record], Iterable[Record]], columns: Columns
    ) -> Self:
        """Apply `function` to each record, and take each dict it gives as a record.

        Args and cost as `map_rows`.
        """
        schema = schema_of(columns)
        vertex = MapVertex(name, FlatMapRows(function, schema), self.vertex, "flat map rows")
        return self._then(vertex, tuple(schema.names))

    def filter_rows(self, name: str, function: Callable[[Record], bool]) -> Self:
        """Keep the records for which `function` says True. Cost: as `map_rows`, or a bit less."""
        vertex = MapVertex(name, FilterRows(function), self.vertex, "filter rows")
        return self._then(vertex, self.columns)

    # Where and when ------------------------------------------------------------------------------

    def exchange(self, name: str, *, by: str) -> Self:
        """Spread rows over the workers by the hash of the integer column `by`.

        Equal values meet in one worker, which stays the same as long as the number of workers does.
        It is for work, not for state: what is to move belongs behind `key_by`.

        Cost: 10 ns a row beside the way over the network.
        """
        self._need(by, name)
        return self._then(ExchangeVertex(name, by, self.vertex), self.columns)

    def broadcast(self, name: str) -> Self:
        """Send every row to every worker."""
        return self._then(ExchangeVertex(name, None, self.vertex), self.columns)

    def delay(
        self, name: str, *, until: Postponement | None = None, step: int | None = None
    ) -> Self:
        """Put rows off to a later time; they go on once all that is put off there has come.

        Args:
            name: of the vertex.
            until: from a row's epoch (microseconds since 1970) to a later one, or the same.
            step: instead of it: to the next multiple of so many microseconds.

        Raises:
            GraphError: neither or both are given, or `step` is below 1. At run time: `until` leads
                back; the text shows both times.

        Cost: the rows wait in memory, and count as held rows do: beyond the budget of held bytes
        the gateways read no more until the time has come.

        Example:
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> bids = Flow("f").source("in", KafkaSource(["t"], record="bid", fields=["price"]))
            >>> every_second = bids.delay("seconds", step=1_000_000)
        """
        if (until is None) == (step is None):
            raise GraphError(f"delay {name!r} needs either until=... or step=...")
        if step is not None:
            if step < 1:
                raise GraphError(f"delay {name!r}: step is {step}; it must be at least 1 us")
            until = Rounding(step)
        assert until is not None, "one of the two was given"
        return self._then(DelayVertex(name, until, self.vertex), self.columns)

    # Looking on ----------------------------------------------------------------------------------

    def inspect(self, name: str, function: Inspection) -> Self:
        """Call `function(epoch, batch)` for every batch, and change nothing.

        A stream may end here. The function runs in the process that has the batch.
        """
        return self._then(InspectVertex(name, function, self.vertex), self.columns)

    def capture(self, name: str, folder: str | os.PathLike[str]) -> Self:
        """Write the batches that pass, their times and the frontier's moves to files in `folder`.

        Each process writes one file a run, an Arrow IPC stream; `captures` finds the files and
        `replay` reads one. A stream may end here. Relative folders are those of the process.
        """
        vertex = CaptureVertex(name, os.fspath(folder), self.vertex)
        return self._then(vertex, self.columns)

    def probe(self) -> Probe:
        """A handle to ask how far the job is here: see `Probe`. It costs nothing while it runs."""
        return Probe(self._made_by().name)

    def errors(self, name: str) -> Self:
        """What the function of this stream's vertex raises on, instead of the end of the job.

        The rows come as they were given to the function, with a column `error`: vertex, time, and
        what was raised. A function of batches loses the whole batch; one of records, such as that
        of `map_rows`, the records it raises on. A function that is wrong about columns or types for
        an empty batch still is an error at the start.

        Raises:
            GraphError: the vertex has no function, or there is a column `error` already.

        Example:
            >>> import pyarrow as pa
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> bids = Flow("f").source("in", KafkaSource(["t"], record="bid", fields=["price"]))
            >>> inverse = bids.map_rows("inverse", lambda b: {"x": 1 / b["price"]},
            ...     {"x": pa.float64()})
            >>> inverse.errors("free").columns
            ('price', 'error')
        """
        made_by = self._made_by()
        if not isinstance(made_by, MapVertex | FlatMapVertex | BranchVertex):
            raise GraphError(
                f"{name!r}: {made_by.name!r} has no function that could raise; ask the stream of "
                "a map, filter, select, with_columns, flat_map or branch for its errors"
            )
        given = self._columns_of(made_by.upstream)
        if given is not None and ERROR_COLUMN in given:
            raise GraphError(
                f"{name!r} adds a column {ERROR_COLUMN!r}, but {made_by.name!r} reads one of that "
                "name; rename it before"
            )
        columns = None if given is None else (*given, ERROR_COLUMN)
        return self._then(SideVertex(name, Side.ERRORS, self.vertex), columns)

    def late(self, name: str) -> Self:
        """The rows that came too late for this vertex's windows or timers.

        They are as they were given; what a join in time says of its late rows is in its own words.

        Raises:
            GraphError: this is not the result of a vertex with windows or timers.
        """
        made_by = self._made_by()
        if not isinstance(made_by, TimedVertex):
            raise GraphError(
                f"{name!r}: only vertices with windows or timers have late rows, not "
                f"{made_by.name!r}; ask their result for .late(...)"
            )
        columns = made_by.late_columns([self._columns_of(up) for up in made_by.upstreams])
        return self._then(SideVertex(name, Side.LATE, self.vertex), columns)

    @abstractmethod
    def _columns_of(self, vertex: int) -> tuple[str, ...] | None:
        """Columns of another stream of the flow, as far as they are known."""

    def _need(self, column: str, user: str) -> None:
        if self.columns is not None and column not in self.columns:
            raise GraphError(f"{user!r} needs column {column!r}; the stream has {self.columns}")
