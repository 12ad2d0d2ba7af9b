"""What can be said to be wrong before any process of a job is started, said once.

Flow: `megaphone run` -> [check_topics] -> Launcher. Each role checks again for itself, since it may
be started alone.
"""

from __future__ import annotations

from service.control_topics import Admin
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import uses_kafka
from service.dataflow.vertices import KafkaSink, KafkaSource, SinkVertex, SourceVertex
from service.errors import UsageError


def topics_of(flow: Flow) -> list[str]:
    """Topics that a flow reads or writes, each once, in the order of the flow."""
    topics: dict[str, None] = {}
    for vertex in flow.vertices:
        if isinstance(vertex, SourceVertex):
            topics |= dict.fromkeys(vertex.kafka.topics)
        elif isinstance(vertex, SinkVertex):
            topics[vertex.kafka.topic] = None
    return list(topics)


def inputs_of(flow: Flow) -> list[str]:
    """Topics that a flow reads, each once, in the order of the flow."""
    sources = [vertex for vertex in flow.vertices if isinstance(vertex, SourceVertex)]
    return [*dict.fromkeys(topic for vertex in sources for topic in vertex.kafka.topics)]


def require_kafka(flow: Flow) -> None:
    """Refuse a flow that processes cannot share, since its ends are in one of them.

    Raises:
        UsageError: its sources and sinks are no topics.
        GraphError: it cannot run at all.
    """
    flow.check()
    if not uses_kafka(flow.vertices):
        ends = [
            f"{vertex.name!r} ({vertex.connector.label})"
            for vertex in flow.vertices
            if isinstance(vertex, SourceVertex | SinkVertex)
            and not isinstance(vertex.connector, KafkaSource | KafkaSink)
        ]
        raise UsageError(
            f"flow {flow.name!r} has no topics but {', '.join(ends)}; run it in one process with "
            "--local"
        )


def check_topics(flow: Flow, bootstrap_servers: str, timeout_s: float) -> None:
    """See that the broker answers and that the flow's topics exist.

    Raises:
        BrokerUnavailable: no broker answered within `timeout_s`.
        UsageError: a topic does not exist; the text names it.
    """
    Admin(bootstrap_servers, timeout_s).partitions(topics_of(flow))
