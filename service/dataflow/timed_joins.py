"""Joins of two keyed streams within event time: the users' API, and its checks.

Flow: user's module -> `KeyedStream` of `service.dataflow.flow`, which has these methods -> vertices
of `timed_join_vertices`. Nothing is computed here.

Invariants
  TJ1  What cannot run is refused when the flow is written: a stream without an event time, two of
       different units, a column that is known to be missing, two output columns of one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Self

from service.dataflow.event_time import EventTime, Unit, in_unit
from service.dataflow.keyed import KeyedOperators, StreamT
from service.dataflow.timed_join_vertices import (
    BestWithinVertex,
    IntervalJoinVertex,
    WindowJoinVertex,
    output_names,
    window_names,
)
from service.dataflow.window_values import Regular, Window, require_window
from service.durations import Duration
from service.errors import GraphError, NotYetSupported

_INNER, _LEFT, _SEMI = "inner", "left", "semi"


class TimedJoinOperators(KeyedOperators[StreamT]):
    """Operators with state per key, those that join within event time among them."""

    def best_within(
        self,
        name: str,
        right: Self,
        *,
        until: str,
        by: str,
        at_least: str | None = None,
        how: str = _INNER,
        once: bool = False,
        suffix: str = "_right",
    ) -> StreamT:
        """The best row of `right` in the interval of event time that each row of this stream opens.

        A row opens an interval for its key, from its event time to its column `until`, which is not
        part of it. Of the rows of `right` with that key and an event time in the interval,
        whichever came first, the one with the greatest `by` is best; of equal ones that of the
        earliest event time, and then the least by its columns. The result leaves when the watermark
        reaches `until`, which is its event time. Rows of one key open intervals of their own, also
        when they overlap, and also when the same row comes twice.

        A row of this stream is late if its event time or its `until` is below the watermark; a row
        of `right` if its event time is, and no interval of its key that is still open holds it.

        Args:
            name: of the vertex.
            right: the other stream, grouped by its key.
            until: column of this stream with the end of the interval, in the unit of event times.
            by: int64 or float64 column of `right`; the greatest is best, NaN never is.
            at_least: column of this stream, of the type of `by`: less than this cannot win.
            how: "inner" gives nothing for an interval without a row, "left" gives nulls.
            once: promises that each key has one row in this stream. Rows of `right` are then not
                kept once it is there, which saves memory and a third of the time. If a key has
                another one after all, rows that came before that one do not count for it.
            suffix: added to names of `right`'s columns that this stream has as well.

        Raises:
            GraphError: streams of different flows or without event time, an unknown column, or two
                output columns of one name.
            NotYetSupported: another `how`.

        Cost: 0.4 us a row with `once`, 0.6 us without. Memory: the columns of both rows for each
            open interval; without `once`, and before a key has its row, those of `right` until the
            watermark is beyond their event times.

        Example:
            The winning bid of each auction:

            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("winners")
            >>> time = Watermarks("date_time", out_of_orderness="5s")
            >>> auctions = flow.source(
            ...     "auctions",
            ...     KafkaSource(["auctions"], "auction", ["id", "date_time", "expires", "reserve"]),
            ...     watermarks=time,
            ... )
            >>> bids = flow.source(
            ...     "bids",
            ...     KafkaSource(["bids"], "bid", ["auction", "price", "date_time"]),
            ...     watermarks=time,
            ... )
            >>> winning = auctions.key_by("id").best_within(
            ...     "winning",
            ...     bids.key_by("auction"),
            ...     until="expires",
            ...     by="price",
            ...     at_least="reserve",
            ... )
            >>> winning.columns
            ('id', 'date_time', 'expires', 'reserve', 'price', 'date_time_right')
            >>> winning.event_time.column
            'expires'
        """
        if how not in (_INNER, _LEFT):
            raise NotYetSupported(f"how={how!r} of {name!r}", 'use how="inner" or how="left"')
        self._both_times(name, right)
        self._need(until, name)
        right._need(by, name)
        if at_least is not None:
            self._need(at_least, name)
        for column, key in ((until, self._key), (by, right._key), (at_least, self._key)):
            if column == key:
                raise GraphError(f"{name!r}: {column!r} is the key; copy it to another column")
        vertex = BestWithinVertex(
            name,
            (self._key, right._key),
            (self._upstream(), right._upstream()),
            until,
            by,
            at_least,
            how == _LEFT,
            once,
            suffix,
        )
        return self._add(vertex, output_names(vertex, (self._columns(), right._columns())))

    def interval_join(
        self,
        name: str,
        right: Self,
        *,
        lower: Duration,
        upper: Duration,
        how: str = _INNER,
        suffix: str = "_right",
    ) -> StreamT:
        """Every pair of rows with one key of which the one of `right` is so much later.

        Its event time is that of this stream's row and from `lower` to `upper` more, both included;
        a negative length, as "-5s", means that it is earlier. A pair leaves when its later row has
        come, whichever side that is, each pair once. A row is late if its event time is below the
        watermark.

        The output's event time is that of the later row, where that is always the one of the same
        stream, as with `lower` at least 0; else it is this stream's, and the vertices behind wait
        for `upper` more.

        Args:
            name: of the vertex.
            right: the other stream, grouped by its key.
            lower: how much later at least.
            upper: how much later at most.
            how: "inner", or "left": then a row of this stream that is in no pair leaves with nulls,
                once the watermark says that none can come.
            suffix: added to names of `right`'s columns that this stream has as well.

        Raises:
            GraphError: streams of different flows or without event time, no such lengths of time,
                or two output columns of one name.
            NotYetSupported: another `how`.

        Cost: 0.5 us a row, and 0.1 us for each row that its key has on the other side. Rows are
            kept until the watermark says that none can come which they could meet, and up to as
            long again.

        Example:
            What people bid within a minute of an auction's beginning:

            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("first")
            >>> auctions = flow.source(
            ...     "auctions",
            ...     KafkaSource(["auctions"], "auction", ["id", "seller", "begins"]),
            ...     watermarks=Watermarks("begins"),
            ... )
            >>> bids = flow.source(
            ...     "bids",
            ...     KafkaSource(["bids"], "bid", ["auction", "price", "date_time"]),
            ...     watermarks=Watermarks("date_time"),
            ... )
            >>> first = auctions.key_by("id").interval_join(
            ...     "first", bids.key_by("auction"), lower="0s", upper="1m"
            ... )
            >>> first.columns
            ('id', 'seller', 'begins', 'price', 'date_time')
            >>> first.event_time.column
            'date_time'
        """
        if how not in (_INNER, _LEFT):
            raise NotYetSupported(f"how={how!r} of {name!r}", 'use how="inner" or how="left"')
        times = self._both_times(name, right)
        least = _signed(lower, times[0].unit, f"lower of {name!r}")
        most = _signed(upper, times[0].unit, f"upper of {name!r}")
        if least > most:
            raise GraphError(f"{name!r}: lower is {lower}, which is more than upper, {upper}")
        vertex = IntervalJoinVertex(
            name,
            (self._key, right._key),
            (self._upstream(), right._upstream()),
            least,
            most,
            how == _LEFT,
            suffix,
            None,
        )
        names = output_names(vertex, (self._columns(), right._columns()))
        left_columns, right_columns = self._columns(), right._columns()
        if most <= 0:
            vertex = replace(vertex, later=(times[0].column, 0))
        elif least >= 0 and how == _INNER and names and left_columns and right_columns:
            others = [column for column in right_columns if column != right._key]
            at = len(left_columns) + others.index(times[1].column)
            vertex = replace(vertex, later=(names[at], 1))
        return self._add(vertex, names)

    def _both_times(self, name: str, right: Self) -> tuple[EventTime, EventTime]:
        """Event times of both streams, of one flow and in one unit."""
        self._same_flow(right)
        times = self._need_event_time(name), right._need_event_time(name)
        for time, key in zip(times, (self._key, right._key), strict=True):
            if time.column == key:
                raise GraphError(
                    f"{name!r}: {key!r} is both key and event time; copy it to another column"
                )
        if times[0].unit != times[1].unit:
            raise GraphError(
                f"{name!r} reads event times of different units, {times[0].column!r} in "
                f"{times[0].unit} and {times[1].column!r} in {times[1].unit}; cast them before "
                "they enter the flow"
            )
        return times

    def _join_in_windows(
        self,
        name: str,
        right: Self,
        cuts: Sequence[tuple[Window, Duration | None]],
        how: str,
        suffix: str,
    ) -> StreamT:
        """The rows of both streams in one window; see `WindowedStream.join`.

        `cuts` are both sides' windows and allowed lateness, None for windows of all rows.
        """
        if how not in (_INNER, _SEMI):
            raise NotYetSupported(f"how={how!r} of {name!r}", 'use how="inner" or how="semi"')
        for window, lateness in cuts:
            require_window(name, window, lateness or "0s")
            if lateness is None or not isinstance(window, Regular):
                raise NotYetSupported(
                    f"join {name!r} of windows {window.described} or of all rows",
                    "use tumbling(...) or sliding(...) behind key_by",
                )
            if in_unit(lateness, "ns", f"allowed_lateness of {name!r}"):
                raise NotYetSupported(
                    f"an allowed lateness of join {name!r}",
                    "let the watermark wait longer, by out_of_orderness",
                )
        (own, _), (other, _) = cuts
        if own != other:
            raise GraphError(
                f"join {name!r}: windows {own.described} on one side and {other.described} on the "
                "other; make them the same"
            )
        assert isinstance(own, Regular), "as was just looked at"
        size, every = own.size, own.every
        unit = self._both_times(name, right)[0].unit
        vertex = WindowJoinVertex(
            name,
            (self._key, right._key),
            (self._upstream(), right._upstream()),
            in_unit(size, unit, f"size of the windows of {name!r}"),
            in_unit(every, unit, f"every of the windows of {name!r}"),
            suffix,
            how == _SEMI,
        )
        return self._add(vertex, window_names(vertex, (self._columns(), right._columns())))


def _signed(duration: Duration, unit: Unit, of: str) -> int:
    """As `in_unit`, of a length that may be negative."""
    if isinstance(duration, timedelta):
        if duration < timedelta(0):
            return -in_unit(-duration, unit, of)
    elif duration.strip().startswith("-"):
        return -in_unit(duration.strip()[1:], unit, of)
    return in_unit(duration, unit, of)
