"""Functions of rows and of timers of event time, with state per key: the users' API.

Flow: user's module -> `KeyedStream` of `service.dataflow.flow`, which has this method -> a
`ProcessVertex`. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from service.dataflow.keyed import KeyedOperators, StreamT
from service.dataflow.process_vertex import ProcessVertex
from service.durations import Duration
from service.errors import GraphError
from service.statestore.object_rows import OBJECTS, StateCodec
from service.statestore.process_program import RowFunction, TimerFunction


class ProcessOperators(KeyedOperators[StreamT]):
    """Operators with state per key, and timers of the user's own."""

    def process(
        self,
        name: str,
        on_row: RowFunction,
        on_timer: TimerFunction | None = None,
        *,
        schema: Mapping[str, pa.DataType],
        value: str | Sequence[str] | None = None,
        initial: Callable[[], Any] | None = None,
        codec: StateCodec = OBJECTS,
        allowed_lateness: Duration = "0s",
    ) -> StreamT:
        """Keep any Python object per key, with timers of event time.

        `on_row(state, row, timers)` is called for each row that is in time, and
        `on_timer(state, timers)` for each timer that was set, once the watermark has reached it;
        by time, and by key where times are equal. Both return the new state and any number of
        outputs, or None for none. `timers.set(time)` and `timers.cancel(time)` change the key's
        timers, `timers.now` is the event time of the row or timer, all integers in the unit of the
        stream's event time. A state of None is forgotten; its timers stay.

        Rows are taken in the order of time, as with `Order.ORDERED`. State and timers move with
        their bins and survive a stop. `.late(name)` of the result has the rows that came too late.

        Args:
            name: of the vertex; the state is found under it after a restart.
            on_row: called for the rows of a key one after the other.
            on_timer: needed if `on_row` sets timers.
            schema: as in `stateful_map`.
            value: as in `stateful_map`.
            initial: as in `stateful_map`; it makes the state for a timer as well.
            codec: as in `stateful_map`.
            allowed_lateness: rows up to so much below the watermark are taken, too.

        Raises:
            GraphError: as `stateful_map`, or the stream has no event time.

        Cost: about 2 us a row, 3 us a row that sets a timer, 7 us a timer that fires, and what the
            functions take.

        Example:
            Users that were silent for a minute:

            >>> import pyarrow as pa
            >>> from service.dataflow.event_time import Watermarks
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("silence")
            >>> source = KafkaSource(["clicks"], "click", ["user", "time"])
            >>> clicks = flow.source("clicks", source, watermarks=Watermarks("time"))
            >>> def on_click(last, time, timers):
            ...     if last is not None:
            ...         timers.cancel(last + 60_000)
            ...     timers.set(time + 60_000)
            ...     return time, None
            >>> def on_silence(last, timers):
            ...     return None, [last]
            >>> silent = clicks.key_by("user").process(
            ...     "silent", on_click, on_silence, value="time", schema={"since": pa.int64()}
            ... )
            >>> silent.columns
            ('user', 'since')
        """
        self._need_event_time(name)
        for function in (on_row, on_timer):
            if function is not None and not callable(function):
                raise GraphError(f"{name!r}: {function!r} is no function")
        form, outputs = self._forms(name, schema, value, initial)
        vertex = ProcessVertex(
            name,
            (self._key,),
            (self._upstream(),),
            on_row,
            on_timer,
            form,
            outputs,
            initial,
            codec,
            allowed_lateness,
        )
        return self._add(vertex, (self._key, *outputs.names))
