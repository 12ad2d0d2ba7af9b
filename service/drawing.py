"""A flow as people see it: a table of its vertices, and a picture.

Flow: Flow -> [table_of | svg_of] -> `megaphone graph`. Pure.

Invariants
  DR1  Every vertex and every stream between two of them is there, once.
  DR2  The same flow gives the same text, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from service.dataflow.connectors import LocalSink, LocalSource
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import loops_of, roles_of, uses_kafka
from service.dataflow.process_vertex import ProcessVertex
from service.dataflow.row_vertices import (
    BranchVertex,
    CaptureVertex,
    DelayVertex,
    ExchangeVertex,
    FlatMapVertex,
    InspectVertex,
    SideVertex,
)
from service.dataflow.timed_join_vertices import (
    BestWithinVertex,
    IntervalJoinVertex,
    WindowJoinVertex,
)
from service.dataflow.vertices import (
    AggregateVertex,
    ConcatVertex,
    DistinctVertex,
    EnterVertex,
    FeedbackVertex,
    JoinVertex,
    KafkaSink,
    KafkaSource,
    KeyedVertex,
    LeaveVertex,
    MapVertex,
    Order,
    SinkVertex,
    SourceVertex,
    StatefulMapVertex,
    TimedVertex,
    Vertex,
    upstreams_of,
)
from service.dataflow.window_vertices import (
    WindowAggregateVertex,
    WindowFoldVertex,
    WindowTopVertex,
)
from service.ids import Role

_WIDTH, _HEIGHT = 190, 46
_GAP_X, _GAP_Y = 34, 44
_MARGIN = 30
_FILLS = {
    frozenset({Role.GATEWAY}): "#e3edf7",
    frozenset({Role.WORKER}): "#e4f1df",
    frozenset({Role.GATEWAY, Role.WORKER}): "#f4efdc",
}
_INK = "#22313f"
#: What people call a vertex; a map and a side say it themselves.
KINDS: dict[type, str] = {
    SourceVertex: "source",
    FlatMapVertex: "flat map",
    BranchVertex: "branch",
    ConcatVertex: "concat",
    ExchangeVertex: "exchange",
    InspectVertex: "inspect",
    DelayVertex: "delay",
    CaptureVertex: "capture",
    AggregateVertex: "keyed",
    StatefulMapVertex: "stateful map",
    DistinctVertex: "distinct",
    JoinVertex: "join",
    BestWithinVertex: "best within",
    IntervalJoinVertex: "interval join",
    WindowJoinVertex: "window join",
    WindowAggregateVertex: "windows",
    WindowTopVertex: "top of windows",
    WindowFoldVertex: "fold of windows",
    EnterVertex: "enter loop",
    ProcessVertex: "process",
    FeedbackVertex: "feedback",
    LeaveVertex: "leave loop",
    SinkVertex: "sink",
}


def table_of(flow: Flow) -> str:
    """One line for each vertex, in the order they were written: what, where, fed by whom.

    Raises:
        GraphError: the flow cannot run.
    """
    flow.check()
    roles, loops = roles_of(flow.vertices), loops_of(flow.vertices)
    rows = [("vertex", "kind", "runs in", "reads", "")]
    ends = "Kafka" if uses_kafka(flow.vertices) else "this machine"
    for number, vertex in enumerate(flow.vertices):
        indent = "  " * len(loops[number])
        fed = ", ".join(flow.vertices[upstream].name for upstream in upstreams_of(vertex))
        rows.append(
            (
                indent + vertex.name,
                _kind(vertex),
                _where(roles[number]),
                fed or ends,
                _detail(vertex),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    return "\n".join([f"flow {flow.name!r}", *(line.rstrip() for line in lines)]) + "\n"


def document_of(flow: Flow) -> dict[str, object]:
    """The same as docs/contracts/graph.schema.json has it.

    Raises:
        GraphError: the flow cannot run.
    """
    flow.check()
    roles, loops = roles_of(flow.vertices), loops_of(flow.vertices)
    return {
        "flow": flow.name,
        "vertices": [
            {
                "name": vertex.name,
                "kind": _kind(vertex),
                "roles": sorted(map(str, roles[number])),
                "loops": len(loops[number]),
                "reads": [flow.vertices[upstream].name for upstream in upstreams_of(vertex)],
                "detail": _detail(vertex),
            }
            for number, vertex in enumerate(flow.vertices)
        ],
    }


def svg_of(flow: Flow) -> str:
    """A picture: streams run downward, what goes round a loop is dashed.

    Raises:
        GraphError: the flow cannot run.
    """
    flow.check()
    places = _places(flow.vertices)
    width = max(x for x, _ in places) + _WIDTH + 2 * _MARGIN
    height = max(y for _, y in places) + _HEIGHT + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-_MARGIN} {-_MARGIN} {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(flow.name)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{_INK}"/></marker></defs>',
    ]
    parts += _loop_frames(flow.vertices, places)
    for number, vertex in enumerate(flow.vertices):
        for upstream in upstreams_of(vertex):
            back = isinstance(vertex, FeedbackVertex)
            parts.append(_stream(places[upstream], places[number], back=back))
    roles = roles_of(flow.vertices)
    for number, vertex in enumerate(flow.vertices):
        parts.append(_box(vertex, places[number], _FILLS[roles[number]], _where(roles[number])))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _kind(vertex: Vertex) -> str:
    match vertex:
        case MapVertex(kind=kind):
            return kind
        case SideVertex(side=side):
            return side.value
        case ExchangeVertex(by=None):
            return "broadcast"
        case _:
            return KINDS[type(vertex)]


def _detail(vertex: Vertex) -> str:
    match vertex:
        case SourceVertex(connector=KafkaSource() as connector):
            return (
                f"{', '.join(connector.topics)}: {connector.record}({', '.join(connector.fields)})"
                f"{_format(connector)}"
            )
        case AggregateVertex():
            return f"by {vertex.key}: {', '.join(vertex.aggregates)}{_ordered(vertex)}"
        case StatefulMapVertex():
            return f"by {vertex.key}: {', '.join(vertex.outputs.names)}{_ordered(vertex)}"
        case DistinctVertex():
            return f"by {vertex.key}{_ordered(vertex)}"
        case TimedVertex():
            return vertex.described
        case JoinVertex():
            left, right = vertex.keys
            return f"{left} = {right}{_ordered(vertex)}"
        case ExchangeVertex(by=str(by)):
            return f"by {by}"
        case CaptureVertex(folder=folder):
            return folder
        case FeedbackVertex(rounds_max=int(rounds)):
            return f"at most {rounds} rounds"
        case SinkVertex(connector=KafkaSink() as connector):
            schema = "" if connector.schema is None else f", schema {connector.schema}"
            return f"{connector.topic}{schema}, key {connector.key}{_format(connector)}"
        case (
            SourceVertex(connector=LocalSource() as local)
            | SinkVertex(connector=LocalSink() as local)
        ):
            return local.label
        case _:
            return ""


def _format(connector: KafkaSource | KafkaSink) -> str:
    return "" if connector.format == "avro" else f", {connector.format}"


def _ordered(vertex: KeyedVertex) -> str:
    return ", ordered" if vertex.order is Order.ORDERED else ""


def _where(roles: frozenset[Role]) -> str:
    return " and ".join(f"{role}s" for role in sorted(roles))


def _places(vertices: Sequence[Vertex]) -> list[tuple[int, int]]:
    """Upper left corners: a row below all that feed it, in the order written within a row."""
    rows: list[int] = []
    for vertex in vertices:
        # A feedback stands in the loop's first row, so that what it leads to lies below it.
        above = () if isinstance(vertex, FeedbackVertex) else upstreams_of(vertex)
        if isinstance(vertex, FeedbackVertex):
            rows.append(rows[vertex.loop])
        else:
            rows.append(1 + max((rows[each] for each in above), default=-1))
    columns: dict[int, int] = {}
    places = []
    for row in rows:
        column = columns.get(row, 0)
        columns[row] = column + 1
        places.append((column * (_WIDTH + _GAP_X), row * (_HEIGHT + _GAP_Y)))
    return places


def _loop_frames(vertices: Sequence[Vertex], places: Sequence[tuple[int, int]]) -> list[str]:
    """A frame around the vertices of each loop, outer loops first."""
    around = loops_of(vertices)
    frames = []
    for loop in sorted({loop for loops in around for loop in loops}):
        inside = [places[number] for number, loops in enumerate(around) if loop in loops]
        pad = 14 - 4 * around[loop].index(loop)
        left, top = min(x for x, _ in inside) - pad, min(y for _, y in inside) - pad
        right = max(x for x, _ in inside) + _WIDTH + pad
        bottom = max(y for _, y in inside) + _HEIGHT + pad
        frames.append(
            f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" rx="12" '
            'fill="#00000008" stroke="#8a8f98" stroke-dasharray="2 4"/>'
        )
    return frames


def _stream(start: tuple[int, int], end: tuple[int, int], *, back: bool) -> str:
    x1, y1 = start[0] + _WIDTH // 2, start[1] + _HEIGHT
    x2, y2 = end[0] + _WIDTH // 2, end[1]
    if back:
        # Out of the right side of the one and into the right side of the other.
        x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT // 2
        x2, y2 = end[0] + _WIDTH, end[1] + _HEIGHT // 2
        bend = max(x1, x2) + 40
        path = f"M{x1} {y1}C{bend} {y1} {bend} {y2} {x2} {y2}"
        return (
            f'<path d="{path}" fill="none" stroke="{_INK}" stroke-dasharray="6 4" '
            'marker-end="url(#tip)"/>'
        )
    middle = (y1 + y2) // 2
    path = f"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}"
    return f'<path d="{path}" fill="none" stroke="{_INK}" marker-end="url(#tip)"/>'


def _box(vertex: Vertex, place: tuple[int, int], fill: str, where: str) -> str:
    x, y = place
    name = escape(vertex.name if len(vertex.name) <= 24 else f"{vertex.name[:23]}…")
    about = escape("; ".join(part for part in (_kind(vertex), where, _detail(vertex)) if part))
    return (
        f"<g><title>{escape(vertex.name)}: {about}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="{_INK}"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 20}" text-anchor="middle" fill="{_INK}">{name}</text>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 37}" text-anchor="middle" fill="#5b6672" '
        f'font-size="11">{_kind(vertex)}, {where}</text></g>'
    )
