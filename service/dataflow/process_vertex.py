"""A vertex of a user's two functions, of rows and of timers of event time.

Flow: `KeyedStream.process` -> [ProcessVertex] -> lowering. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from service.dataflow.event_time import EventTime, in_unit
from service.dataflow.vertices import TimedVertex
from service.durations import Duration
from service.statestore.object_rows import StateCodec
from service.statestore.process_program import RowFunction, TimerFunction
from service.statestore.stateful_map import RowForm


@dataclass(frozen=True)
class ProcessVertex(TimedVertex):
    """Per row and per timer, a user's function of the key's state; lowered to F and S."""

    name: str
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    on_row: RowFunction
    on_timer: TimerFunction | None
    #: What `on_row` is given of a row, as in `StatefulMapVertex`.
    value: RowForm
    #: Columns of the output, without the key.
    outputs: pa.Schema
    initial: Callable[[], Any] | None
    codec: StateCodec
    allowed_lateness: Duration

    @property
    def described(self) -> str:
        """The key, and the columns that the functions give."""
        return f"by {self.key}: {', '.join(self.outputs.names)}"

    def event_time(self, given: Sequence[EventTime]) -> EventTime | None:
        """That of the rows, if the functions give the column on; late by as much as is allowed."""
        (time,) = given
        if time.column not in self.outputs.names:
            return None
        late = in_unit(self.allowed_lateness, time.unit, f"{self.name!r}: allowed_lateness")
        return replace(time, delay=time.delay + late)
