"""Joins of two keyed streams within event time: the users' API, and its checks.

Flow: user's module -> `KeyedStream` of `service.dataflow.flow`, which has these methods -> vertices
of `timed_join_vertices`. Nothing is computed here.

Invariants
  TJ1  What cannot run is refused when the flow is written: a stream without an event time, two of
       different units, a column that is known to be missing, two output columns of one name.
"""

from __future__ import annotations

from typing import Self

from service.dataflow.event_time import EventTime
from service.dataflow.keyed import KeyedOperators, StreamT, joined_names
from service.dataflow.timed_join_vertices import BestWithinVertex
from service.errors import GraphError, NotYetSupported

_INNER, _LEFT = "inner", "left"


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
                kept once it is there, which saves memory and half of the time. If a key has
                another one after all, rows that came before that one do not count for it.
            suffix: added to names of `right`'s columns that this stream has as well.

        Raises:
            GraphError: streams of different flows or without event time, an unknown column, or two
                output columns of one name.
            NotYetSupported: another `how`.

        Cost: 0.4 us a row with `once`, 0.7 us without. Memory: the columns of both rows for each
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
        left_columns, right_columns = self._columns(), right._columns()
        if left_columns is None or right_columns is None:
            return self._add(vertex, None)
        return self._add(vertex, joined_names(vertex, left_columns, right_columns))

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
