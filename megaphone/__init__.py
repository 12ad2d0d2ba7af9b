"""Megaphone for Kafka: write a flow, run it on many processes, move its state while it runs.

This package only re-exports; `service` holds the code. A flow is a value:

    >>> import megaphone as mp
    >>> flow = mp.Flow("stats")
    >>> source = mp.KafkaSource(["events"], record="bid", fields=["auction", "price"])
    >>> bids = flow.source("bids", source)
    >>> stats = bids.key_by("auction").aggregate("stats", bids=mp.count(), top=mp.highest("price"))
    >>> flow = stats.sink("out", mp.KafkaSink("stats", key="auction", schema=9))
    >>> [vertex.name for vertex in flow.vertices]
    ['bids', 'stats', 'out']

Run it with `megaphone run module:flow`.
"""

from service.dataflow.capturing import CapturedFrontier, CapturedRows, captures, replay
from service.dataflow.flow import Flow, KeyedStream, Stream, count, highest, lowest, oldest, total
from service.dataflow.probe import Probe
from service.dataflow.vertices import KafkaSink, KafkaSource, Order
from service.errors import GraphError, MegaphoneError, NotYetSupported, UsageError

__all__ = [
    "CapturedFrontier",
    "CapturedRows",
    "Flow",
    "GraphError",
    "KafkaSink",
    "KafkaSource",
    "KeyedStream",
    "MegaphoneError",
    "NotYetSupported",
    "Order",
    "Probe",
    "Stream",
    "UsageError",
    "captures",
    "count",
    "highest",
    "lowest",
    "oldest",
    "replay",
    "total",
]
