"""Where event time goes in a flow: which vertices keep it, and where it is lost.

Flow: vertices and their columns -> [event_time_behind] -> the event time of each stream, for the
users' API and for lowering; where there is none, [lost_at] says why. Pure.

Invariants
  TP1  A stream has an event time only if its rows come out at the time, the dataflow's, at which
       they went in: only then does the watermark of that time say something about them. So it is
       lost where rows are put off, or where a vertex that is not ordered may let them wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.dataflow.event_time import EventTime
from service.dataflow.row_vertices import DelayVertex, Side, SideVertex
from service.dataflow.vertices import (
    AggregateVertex,
    ConcatVertex,
    DistinctVertex,
    EnterVertex,
    FeedbackVertex,
    JoinVertex,
    LeaveVertex,
    Order,
    SourceVertex,
    StatefulMapVertex,
    TimedVertex,
    Vertex,
    upstreams_of,
)


def event_time_behind(
    vertex: Vertex, given: Sequence[EventTime | None], columns: Sequence[str] | None
) -> EventTime | None:
    """The event time of what `vertex` gives.

    Args:
        vertex: any vertex.
        given: event times of the streams it reads.
        columns: of its output; None if they are not known, which keeps the event time.
    """
    match vertex:
        case SourceVertex(watermarks=watermarks):
            if watermarks is None:
                return None
            return EventTime(watermarks.column, watermarks.unit)
        case TimedVertex():
            known = [each for each in given if each is not None]
            return vertex.event_time(known) if len(known) == len(given) else None
        case EnterVertex() | FeedbackVertex() | LeaveVertex() | DelayVertex() | JoinVertex():
            return None
        case SideVertex(side=Side.LATE):
            return None
        case AggregateVertex() | StatefulMapVertex() | DistinctVertex():
            if vertex.order is not Order.ORDERED:
                return None
        case _:
            pass
    first, *others = given
    if first is None or any(other != first for other in others):
        return None
    return first if columns is None or first.column in columns else None


def lost_at(number: int, vertices: Sequence[Vertex], times: Sequence[EventTime | None]) -> str:
    """Why the stream of vertex `number` has no event time, and what to do."""
    vertex = vertices[number]
    ups = upstreams_of(vertex)
    for upstream in ups:
        if upstream < number and times[upstream] is None:
            return lost_at(upstream, vertices, times)
    match vertex:
        case SourceVertex():
            return (
                f"source {vertex.name!r} has no watermarks; give it watermarks=Watermarks(column)"
            )
        case EnterVertex() | FeedbackVertex() | LeaveVertex():
            return f"{vertex.name!r} brings it into a loop or out of one, where it is lost"
        case DelayVertex():
            return f"delay {vertex.name!r} puts rows off, and their event time is lost"
        case SideVertex(side=Side.LATE):
            return f"rows of {vertex.name!r} are late already"
        case JoinVertex():
            return (
                f"join {vertex.name!r} pairs rows with rows as old as may be; join in windows or "
                "in an interval of time"
            )
        case ConcatVertex():
            listed = ", ".join(
                f"{vertices[up].name!r} has {time.column!r} in {time.unit}"
                for up in ups
                if (time := times[up]) is not None
            )
            return f"the streams of concat {vertex.name!r} have different event times: {listed}"
        case AggregateVertex() | StatefulMapVertex() | DistinctVertex() if (
            vertex.order is not Order.ORDERED
        ):
            return (
                f"{vertex.name!r} may let rows wait beyond their time; give it order=Order.ORDERED"
            )
        case _:
            time = times[ups[0]]
            column = "" if time is None else f"column {time.column!r}"
            return f"{vertex.name!r} drops {column}, the event time; keep it"
