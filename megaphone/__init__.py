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

Run it with `megaphone run module:flow`; test it with `megaphone.testing`.
"""

from service.dataflow.capturing import CapturedFrontier, CapturedRows, captures, replay
from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.flow import (
    Flow,
    KeyedStream,
    Stream,
    count,
    distinct_count,
    highest,
    lowest,
    mean,
    oldest,
    total,
)
from service.dataflow.probe import Probe
from service.dataflow.vertices import KafkaSink, KafkaSource, Order
from service.dataflow.window_values import given, session, sliding, tumbling
from service.dataflow.windows import WindowedStream
from service.egress.local_sinks import FileSink, ListSink, PrintSink
from service.errors import (
    DataError,
    GraphError,
    MegaphoneError,
    NotYetSupported,
    UsageError,
    UserFunctionError,
)
from service.ingest.captured import CaptureSource
from service.ingest.files import FileSource
from service.ingest.lists import ListSource
from service.standalone.run import run_local
from service.statestore.object_rows import StateCodec
from service.statestore.process_program import KeyTimers

__all__ = [
    "CaptureSource",
    "CapturedFrontier",
    "CapturedRows",
    "DataError",
    "EventTime",
    "FileSink",
    "FileSource",
    "Flow",
    "GraphError",
    "KafkaSink",
    "KafkaSource",
    "KeyTimers",
    "KeyedStream",
    "ListSink",
    "ListSource",
    "MegaphoneError",
    "NotYetSupported",
    "Order",
    "PrintSink",
    "Probe",
    "StateCodec",
    "Stream",
    "UsageError",
    "UserFunctionError",
    "Watermarks",
    "WindowedStream",
    "captures",
    "count",
    "distinct_count",
    "given",
    "highest",
    "lowest",
    "mean",
    "oldest",
    "replay",
    "run_local",
    "session",
    "sliding",
    "total",
    "tumbling",
]
