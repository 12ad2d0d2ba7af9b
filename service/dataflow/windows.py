"""Windows over event time: the users' API, and its checks.

Flow: user's module -> `Stream.window`, `KeyedStream.window` of `service.dataflow.flow`, which give
a [WindowedStream] -> vertices of `window_vertices`. Nothing is computed here.

Invariants
  WS1  What cannot run is refused when the flow is written: a stream without event time, lengths
       that make no windows, a column that is known to be missing, two output columns of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from service.dataflow.row_operations import RowOperations
from service.dataflow.row_vertices import BatchFunction
from service.dataflow.timed_joins import TimedJoinOperators
from service.dataflow.vertices import MapVertex
from service.dataflow.window_values import (
    END,
    START,
    TOGETHER,
    Given,
    Session,
    Window,
    require_window,
)
from service.dataflow.window_vertices import (
    AssignWindows,
    WindowAggregateVertex,
    WindowFoldVertex,
    WindowTopVertex,
    put_together,
)
from service.durations import Duration
from service.errors import GraphError, NotYetSupported
from service.statestore.aggregate import Aggregate, Oldest
from service.statestore.distinct_values import DistinctCount
from service.statestore.session_fold import MergeFunction
from service.statestore.window_fold import FoldFunction

StreamT = TypeVar("StreamT", bound=RowOperations)


@dataclass(frozen=True)
class WindowedStream(Generic[StreamT]):
    """A stream cut into windows; what follows computes something of each.

    Made by `KeyedStream.window`, for windows of each key, and by `Stream.window`, for windows of
    all rows together.
    """

    _on: TimedJoinOperators[StreamT]
    #: None where the rows of all keys are together.
    _key: str | None
    _window: Window
    _lateness: Duration

    def aggregate(self, name: str, **aggregates: Aggregate | DistinctCount) -> StreamT:
        """Of each window, and key, that has a row: some numbers, once the watermark has closed it.

        The output has the key, `window_start`, `window_end`, which are int64 in the unit of the
        event time, and the aggregates; its event time is `window_end` less one. Rows that come
        while a window is closed and within the allowed lateness give it again, as it is then; rows
        that come later still are in `.late(...)` of what this returns.

        Args:
            name: of the vertex.
            aggregates: `count()`, `total`, `highest`, `lowest`, `mean` and `distinct_count` of a
                column, by the name that the output has. Different values of one column can be
                counted in one vertex.

        Raises:
            GraphError: no aggregates, something else than an aggregate, an unknown column, a name
                that is taken, or no event time.

        Cost: 0.1 us a row; for a window 0.1 us for each key of it, and where windows overlap 0.05
            us for each key and pane. State: 40 bytes and 8 for each number, for each key and pane;
            a pane is the greatest length that both size and `every` are multiples of. With
            `distinct_count` for each different value, too, and 8 bytes more, 16 for text. Sessions:
            0.3 us a row and 2 us for each key of a batch; see docs/WINDOWS.md.

        Example:
            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow, count
            >>> from service.dataflow.vertices import KafkaSource
            >>> from service.dataflow.window_values import sliding
            >>> flow = Flow("hot")
            >>> bids = flow.source(
            ...     "bids",
            ...     KafkaSource(["bids"], "bid", ["auction", "date_time"]),
            ...     watermarks=Watermarks("date_time", out_of_orderness="5s"),
            ... )
            >>> windows = bids.key_by("auction").window(sliding("10s", every="2s"))
            >>> windows.aggregate("counts", num=count()).columns
            ('auction', 'window_start', 'window_end', 'num')
        """
        self._check(name, aggregates)
        upstream, key = self._upstream(name)
        vertex = WindowAggregateVertex(
            name,
            (key,),
            (upstream,),
            self._window,
            self._lateness,
            dict(aggregates),
            self._key is not None,
        )
        return self._on._add(vertex, (*self._named, *aggregates))

    def top(
        self, name: str, *, by: str, n: int = 1, ties: bool = True, lowest: bool = False
    ) -> StreamT:
        """Of each window, and key, the whole rows with the greatest values of a column.

        The output has the columns of the stream, and `window_start` and `window_end` unless it has
        them already. Closed windows and late rows are as for `aggregate`.

        Args:
            name: of the vertex.
            by: column of numbers, booleans or times; NaN is below all numbers.
            n: how many rows.
            ties: whether rows that are equal to the last of these are given, too, however many;
                otherwise those that came first win, the rows of one time by their columns.
            lowest: the least values instead.

        Raises:
            GraphError: an unknown column, `n` below 1, columns of windows that the stream has
                already, or no event time.

        Cost: 0.1 us a row, and 2 us for each key of a batch that has a row among the best. State:
            the rows that would be given.

        Example:
            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> from service.dataflow.window_values import tumbling
            >>> flow = Flow("highest")
            >>> bids = flow.source(
            ...     "bids",
            ...     KafkaSource(["bids"], "bid", ["auction", "price", "date_time"]),
            ...     watermarks=Watermarks("date_time"),
            ... )
            >>> bids.window(tumbling("10s")).top("highest", by="price").columns
            ('auction', 'price', 'date_time', 'window_start', 'window_end')
        """
        if n < 1:
            raise GraphError(f"top {name!r}: n is {n}; it must be at least 1")
        self._on._need(by, name)
        columns = self._on._columns()
        if not isinstance(self._window, Given):
            self._need_room(name)
            columns = None if columns is None else (*columns, START, END)
        upstream, key = self._upstream(name)
        vertex = WindowTopVertex(
            name,
            (key,),
            (upstream,),
            self._window,
            self._lateness,
            by,
            n,
            ties,
            lowest,
            self._key is not None,
        )
        return self._on._add(vertex, columns)

    def join(
        self,
        name: str,
        right: WindowedStream[StreamT],
        *,
        how: str = "inner",
        suffix: str = "_right",
    ) -> StreamT:
        """The rows of this stream and of `right` with one key in one window.

        With `how="inner"` every pair of them leaves, once for each window that has both, when the
        later of the two has come; with `how="semi"` every row of this stream, once for each window
        in which `right` has some row of its key. The output has the key, this stream's other
        columns, for pairs those of `right`, and `window_start` and `window_end`; its event time is
        `window_end` less one. A row is late once all its windows have closed.

        Args:
            name: of the vertex.
            right: the other stream, grouped by its key and cut into the same windows.
            how: "inner" or "semi".
            suffix: added to names of `right`'s columns that this stream has as well.

        Raises:
            GraphError: other windows, streams of different flows or without event time, or two
                output columns of one name.
            NotYetSupported: another `how`, windows of all rows or that are given, or an allowed
                lateness.

        Cost: 0.6 us a row, and 0.1 us for each row of `right` that its key has in open windows.
            Rows go when their last window closes; of `right` a "semi" keeps one mark a window.

        Example:
            People who registered and opened an auction in the same ten seconds:

            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> from service.dataflow.window_values import tumbling
            >>> flow, time = Flow("new"), Watermarks("date_time", out_of_orderness="5s")
            >>> people = flow.source(
            ...     "people",
            ...     KafkaSource(["people"], "person", ["id", "name", "date_time"]),
            ...     watermarks=time,
            ... )
            >>> auctions = flow.source(
            ...     "auctions",
            ...     KafkaSource(["auctions"], "auction", ["seller", "date_time"]),
            ...     watermarks=time,
            ... )
            >>> window = tumbling("10s")
            >>> sellers = auctions.key_by("seller").window(window)
            >>> new = people.key_by("id").window(window).join("new", sellers, how="semi")
            >>> new.columns
            ('id', 'name', 'date_time', 'window_start', 'window_end')
        """
        cuts = [
            (side._window, side._lateness if side._key is not None else None)
            for side in (self, right)
        ]
        return self._on._join_in_windows(name, right._on, cuts, how, suffix)

    def fold(
        self,
        name: str,
        function: FoldFunction,
        *,
        initial: Callable[[], Any],
        schema: Mapping[str, pa.DataType],
        value: str | Sequence[str] | None = None,
        merge: MergeFunction | None = None,
    ) -> StreamT:
        """Of each window, and key, what a function of yours makes of its rows.

        `function(accumulated, row)` is called for each row and window, and returns what is
        accumulated then; when the window closes, that is given. Where windows are sessions,
        `merge(earlier, later)` is called, too: when a row makes one session of two, with what each
        had accumulated, the one that begins earlier first; then the row is folded.

        Args:
            name: of the vertex; the state is found under it after a restart.
            function: it must depend on nothing but its arguments.
            initial: makes what is accumulated before the first row, as `list` does.
            schema: names and types of the output's columns beside the key and the window. With one
                column it is what was accumulated; with several that is a tuple in their order, or a
                dict.
            value: what of a row the function is given: a column's name for its value, several for a
                tuple, None for a dict of all columns.
            merge: of sessions, and needed there; it must depend on nothing but its arguments.

        Raises:
            GraphError: an unknown column, no output column, one that is named like the key or a
                column of windows, sessions without `merge`, or other windows with it.

        Cost: about 2 us a row and window, and what the function takes; it is not for streams that
            `aggregate` could serve.

        Example:
            >>> import pyarrow as pa
            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> from service.dataflow.window_values import tumbling
            >>> flow = Flow("pages")
            >>> source = KafkaSource(["clicks"], "click", ["user", "page", "time"])
            >>> clicks = flow.source("clicks", source, watermarks=Watermarks("time"))
            >>> def joined(pages, page):
            ...     return f"{pages} {page}".strip()
            >>> paths = clicks.key_by("user").window(tumbling("1m")).fold(
            ...     "paths", joined, initial=str, value="page", schema={"path": pa.string()}
            ... )
            >>> paths.columns
            ('user', 'window_start', 'window_end', 'path')
        """
        for each in (function, initial, *(() if merge is None else (merge,))):
            if not callable(each):
                raise GraphError(f"fold {name!r}: {each!r} is no function")
        taken = [column for column in schema if column in (self._key, START, END)]
        if taken or not schema:
            raise GraphError(
                f"fold {name!r} has output columns {list(schema)}; name at least one, and none "
                f"like the key, {START!r} or {END!r}"
            )
        form = value if value is None or isinstance(value, str) else tuple(value)
        for column in (form,) if isinstance(form, str) else form or ():
            self._on._need(column, name)
        if isinstance(self._window, Session) and merge is None:
            raise GraphError(
                f"fold {name!r} of sessions needs merge=...: a row between two sessions makes one "
                "of them, and only you can say what they accumulated together"
            )
        if not isinstance(self._window, Session) and merge is not None:
            raise GraphError(
                f"fold {name!r} has merge=..., but only sessions become one; leave it out"
            )
        upstream, key = self._upstream(name)
        vertex = WindowFoldVertex(
            name,
            (key,),
            (upstream,),
            self._window,
            self._lateness,
            function,
            initial,
            form,
            pa.schema(list(schema.items())),
            merge,
            self._key is not None,
        )
        return self._on._add(vertex, (*self._named, *schema))

    @property
    def _named(self) -> tuple[str, ...]:
        """Columns of results that say whose they are."""
        return (START, END) if self._key is None else (self._key, START, END)

    def _check(self, name: str, aggregates: Mapping[str, Aggregate | DistinctCount]) -> None:
        if not aggregates:
            raise GraphError(f"aggregate {name!r} has nothing to compute")
        for output, aggregate in aggregates.items():
            if output in (self._key, START, END):
                raise GraphError(
                    f"aggregate {name!r}: an output is named {output!r}, as a column that it has "
                    "already; rename it"
                )
            if isinstance(aggregate, Oldest) or not isinstance(
                aggregate, Aggregate | DistinctCount
            ):
                raise GraphError(
                    f"aggregate {name!r}: {output!r} is {aggregate!r}; of windows there are "
                    "count(), total(...), highest(...), lowest(...), mean(...) and "
                    "distinct_count(...)"
                )
            if aggregate.column is not None:
                self._on._need(aggregate.column, name)
        counted = {each.column for each in aggregates.values() if isinstance(each, DistinctCount)}
        if len(counted) > 1:
            raise NotYetSupported(
                f"aggregate {name!r}, different values of several columns {sorted(counted)},",
                "count each in a vertex of its own",
            )

    def _upstream(self, name: str) -> tuple[int, str]:
        """The vertex to read, and its key; it says of each row its window where nobody else does.

        Raises:
            GraphError: the stream has no event time, or lacks or has columns of windows.
        """
        time = self._on._need_event_time(name)
        require_window(name, self._window, self._lateness)
        upstream = self._on._upstream()
        if isinstance(self._window, Given):
            for column in (START, END):
                self._on._need(column, name)
            return upstream, START if self._key is None else self._key
        if self._key is not None:
            return upstream, self._key
        columns = self._on._columns()
        function: BatchFunction = put_together
        names: tuple[str, ...] = (TOGETHER,)
        if not isinstance(self._window, Session):
            self._need_room(name)
            function, names = AssignWindows(name, self._window, time), (START, END)
        assign = MapVertex(f"{name}.windows", function, upstream, "windows")
        added = self._on._add(assign, None if columns is None else (*columns, *names))
        return added.vertex, names[0]

    def _need_room(self, name: str) -> None:
        """Refuse rows that have columns of windows, which they are to be given."""
        columns = self._on._columns()
        for column in (START, END):
            if columns is not None and column in columns:
                raise GraphError(
                    f"{name!r} would give its rows a column {column!r}, which they have; use "
                    "given() for the windows that rows name themselves, or drop the column"
                )
