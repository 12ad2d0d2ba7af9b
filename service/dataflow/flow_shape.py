"""Questions about all vertices of a flow: its topics, its loops, and where its rows are.

Flow: vertices of `service.dataflow.vertices` -> [loops_of], [roles_of] and others -> check,
drawing, lowering and the processes. Pure; VX2 of `vertices` says what lies in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.dataflow.row_vertices import ExchangeVertex
from service.dataflow.vertices import (
    AggregateVertex,
    DistinctVertex,
    EnterVertex,
    FeedbackVertex,
    JoinVertex,
    KafkaSink,
    KafkaSource,
    KeyedVertex,
    LeaveVertex,
    SinkVertex,
    SourceVertex,
    StatefulMapVertex,
    TimedVertex,
    Vertex,
    upstreams_of,
)
from service.errors import GraphError, NotYetSupported
from service.ids import Role


def topics_of(vertices: Sequence[Vertex]) -> frozenset[str]:
    """Topics that the sources among `vertices` read."""
    return frozenset(
        topic
        for vertex in vertices
        if isinstance(vertex, SourceVertex) and isinstance(vertex.connector, KafkaSource)
        for topic in vertex.connector.topics
    )


def uses_kafka(vertices: Sequence[Vertex]) -> bool:
    """Whether the ends of a flow are topics; otherwise none is.

    Raises:
        NotYetSupported: some are and some are not.
    """
    ends: dict[bool, str] = {}
    for vertex in vertices:
        if isinstance(vertex, SourceVertex | SinkVertex):
            ends.setdefault(isinstance(vertex.connector, KafkaSource | KafkaSink), vertex.name)
    if len(ends) == 2:
        raise NotYetSupported(
            f"a flow with both Kafka's ends ({ends[True]!r}) and others ({ends[False]!r})",
            "give all of its sources and sinks topics, or none",
        )
    return True in ends


def stateful_of(vertices: Sequence[Vertex]) -> int:
    """How many vertices keep state in bins: each of them reports every bin that moves."""
    return sum(isinstance(vertex, KeyedVertex) for vertex in vertices)


def loops_of(vertices: Sequence[Vertex]) -> list[tuple[int, ...]]:
    """The loops around each vertex, outermost first, each as the number of its first enter (VX2).

    Raises:
        GraphError: streams of different loops meet, or a stream leaves where no loop is.
    """
    around: list[tuple[int, ...]] = []
    for number, vertex in enumerate(vertices):
        match vertex:
            case SourceVertex():
                around.append(())
            case EnterVertex():
                loop = number if vertex.loop is None else vertex.loop
                around.append((*around[vertex.upstream], loop))
            case FeedbackVertex():
                around.append(around[vertex.loop])
            case LeaveVertex():
                if not around[vertex.upstream]:
                    raise GraphError(f"{vertex.name!r} leaves a loop, but no loop is around it")
                around.append(around[vertex.upstream][:-1])
            case _:
                first, *others = upstreams_of(vertex)
                for other in others:
                    if around[other] != around[first]:
                        raise GraphError(
                            f"{vertex.name!r} reads {vertices[first].name!r} and "
                            f"{vertices[other].name!r}, which lie in different loops; bring one "
                            "into the other's loop with `into`, or out of its own"
                        )
                around.append(around[first])
    return around


def roles_of(vertices: Sequence[Vertex]) -> list[frozenset[Role]]:
    """Where rows leave each vertex; a concat may have rows in both.

    Rows stay in the gateway that read them until a keyed vertex or an exchange sends them to a
    worker; behind it they stay in workers.
    """
    found: list[frozenset[Role]] = [frozenset()] * len(vertices)
    # A feedback names a later vertex: until nothing changes, which is at most once per loop.
    while True:
        before = list(found)
        for number, vertex in enumerate(vertices):
            match vertex:
                case SourceVertex():
                    found[number] = frozenset({Role.GATEWAY})
                case (
                    AggregateVertex()
                    | StatefulMapVertex()
                    | DistinctVertex()
                    | JoinVertex()
                    | TimedVertex()
                    | ExchangeVertex()
                ):
                    found[number] = frozenset({Role.WORKER})
                case _:
                    found[number] = frozenset[Role]().union(
                        *(found[upstream] for upstream in upstreams_of(vertex))
                    )
        if found == before:
            return found
