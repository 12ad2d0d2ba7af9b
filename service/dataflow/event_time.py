"""Event time as a flow says it: which column it is, in which unit, and how a source estimates it.

Flow: `flow.source(..., watermarks=Watermarks(...))` -> [EventTime] along the streams -> vertices
with windows and timers, which read the column as integers in its unit.

A watermark W says: no more rows with an event time below W are expected. It is an estimate that a
source makes of each partition it reads; nothing else in a flow makes one.

Invariants
  ET1  Event times and watermarks are integers in the unit of their column; no unit is ever turned
       into another, so lengths of time are turned into the column's when the flow is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

from service.durations import Duration, microseconds_of
from service.errors import GraphError, UsageError

Unit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_NS: dict[str, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

#: From some rows of one partition to the watermark that they allow; None: they say nothing.
WatermarkGenerator = Callable[[pa.RecordBatch], int | None]


@dataclass(frozen=True)
class Watermarks:
    """How a source knows how far event time has come.

    Of each partition the watermark is the greatest event time seen, less `out_of_orderness`; of the
    source it is the least of its partitions. A partition that has been silent for `idle_after`, and
    read to its end, is left out until it speaks again: it does not hold windows open.

    Args:
        column: the event time, an int64 in `unit` or an Arrow timestamp, whose type says the unit.
        out_of_orderness: how much earlier than the greatest event time so far a row may still be.
        idle_after: None: a silent partition holds the watermark back for ever.
        unit: of an int64 column: "s", "ms", "us" or "ns".
        generator: a function of yours in place of `out_of_orderness`. It is given rows of one
            partition as they come, some at a time, and returns a watermark or None. The greatest
            one so far counts, so it must not matter how many rows it is given at once.

    Raises:
        GraphError: an argument does not fit.

    Example:
        >>> from service.dataflow.event_time import Watermarks
        >>> Watermarks("date_time", out_of_orderness="5s").allowed
        5000
    """

    column: str
    out_of_orderness: Duration = "0s"
    idle_after: Duration | None = "10s"
    unit: Unit = "ms"
    generator: WatermarkGenerator | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.unit not in _NS:
            raise GraphError(f"watermarks: unit {self.unit!r} is none of {', '.join(UNITS)}")
        if self.generator is not None and not callable(self.generator):
            raise GraphError(f"watermarks: generator {self.generator!r} is no function")
        late = _nanoseconds(self.out_of_orderness, "out_of_orderness")
        if late and self.generator is not None:
            raise GraphError(
                "watermarks: out_of_orderness and a generator exclude each other; let the "
                "generator subtract it"
            )
        if self.idle_after is not None and not _nanoseconds(self.idle_after, "idle_after"):
            raise GraphError("watermarks: idle_after must be longer than 0s; None is never")

    @property
    def allowed(self) -> int:
        """`out_of_orderness` in `unit`; see `in_unit`."""
        return in_unit(self.out_of_orderness, self.unit, "out_of_orderness")

    @property
    def idle_after_us(self) -> int | None:
        """`idle_after` in microseconds of the gateway's clock."""
        return None if self.idle_after is None else _microseconds(self.idle_after, "idle_after")


@dataclass(frozen=True, slots=True)
class EventTime:
    """The event time of a stream's rows: `column` + `offset`, in `unit`.

    Results of windows have their `window_end` less one as their event time. Rows may come up to
    `delay` behind the sources' watermark and are in time: a vertex that holds rows back says so.
    """

    column: str
    unit: Unit
    offset: int = 0
    delay: int = 0


def in_unit(duration: Duration, unit: Unit, of: str) -> int:
    """The whole number of `unit` that `duration` is (ET1); `of` is what to call it in an error.

    Raises:
        GraphError: it is no length of time, or no whole number of the unit.

    >>> in_unit("1.5s", "ms", "gap")
    1500
    """
    length, rest = divmod(_nanoseconds(duration, of), _NS[unit])
    if rest:
        raise GraphError(
            f"{of} is {duration}, but the event time is in {unit}; write a whole number of {unit}"
        )
    return length


def microseconds(time: int, unit: Unit) -> float:
    """An event time as microseconds, to compare it with a clock.

    >>> microseconds(1_500, "ms")
    1500000.0
    """
    return time * _NS[unit] / 1_000


def unit_of(field: pa.Field, declared: Unit, user: str) -> Unit:
    """The unit of an event time in this column: its type's, or for an int64 the `declared` one.

    Raises:
        GraphError: it is neither a timestamp nor an int64; the text names the `user` of it.
    """
    if pa.types.is_timestamp(field.type):
        unit: Unit = field.type.unit
        return unit
    if field.type != pa.int64():
        raise GraphError(
            f"{user!r} takes column {field.name!r} for its event time, which must be an int64 or a "
            f"timestamp, not {field.type}; cast it"
        )
    return declared


def _nanoseconds(duration: Duration, of: str) -> int:
    return 1_000 * _microseconds(duration, of)


def _microseconds(duration: Duration, of: str) -> int:
    try:
        return microseconds_of(duration, of)
    except UsageError as error:
        raise GraphError(str(error)) from error
