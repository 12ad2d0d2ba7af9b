"""What a controller finds when it starts: the job's shape, and what earlier runs left.

Flow: flow, input topics, <app>.checkpoints, <app>.accepted, <app>.status -> [find_past, shape_of]
-> ControllerMachine.

Caller: has taken the log over (`LogWriter`) before it reads it, so that nobody writes meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.config import Config
from service.control_topics import (
    START_AT_BEGINNING,
    AppTopics,
    TopicTail,
    read_compacted,
)
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import stateful_of
from service.dataflow.row_vertices import delays_of
from service.dataflow.vertices import SourceVertex
from service.errors import UsageError
from service.hashing import bin_bits_of
from service.ingest.consumer import KafkaPartitions
from service.migration.checkpoints import CheckpointSettings
from service.migration.controller_events import ControllerSettings
from service.migration.founding import JobShape
from service.migration.horizon import LogFollower
from service.migration.records import (
    ManifestRecord,
    StatusRecord,
    decode_log,
    decode_status,
)
from service.slot_folder import newest_manifests

#: Owners take up to 6 bytes each in JSON, a record of the log at most 1 MB.
BINS_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What the command line says about the job."""

    bootstrap_servers: str
    app: str
    workers: int
    gateways: int
    bins: int
    until_end: bool
    #: Where to listen for peers; empty: links.address.
    address: str = ""
    http_port: int | None = None
    #: Between two checkpoints of the schedule; 0: none but those asked for.
    checkpoint_every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier runs of the app left."""

    #: Newest first.
    manifests: list[ManifestRecord]
    #: Has applied the accepted log behind the newest manifest, or all of it.
    history: LogFollower
    #: Newest status of each request.
    answered: dict[str, StatusRecord]

    @property
    def manifest(self) -> ManifestRecord | None:
        """The newest manifest, from which the job goes on."""
        return self.manifests[0] if self.manifests else None


def check_bins(bins: int) -> None:
    """Refuse a number of bins that cannot be, or whose owners do not fit a record of the log.

    Raises:
        UsageError: see there.
    """
    bin_bits_of(bins)
    if bins > BINS_MAX:
        raise UsageError(
            f"--bins {bins}: at most {BINS_MAX}; the table of owners must fit one Kafka record"
        )


def find_past(bootstrap_servers: str, topics: AppTopics, timeout_s: float) -> Past:
    """Read what earlier runs left.

    Raises:
        BrokerError: a topic was not read to its end in time.
        FormatMismatch: a manifest of another version.
        ProtocolViolation: a record that this version does not know.
    """
    manifests = newest_manifests(bootstrap_servers, topics, timeout_s)
    start = manifests[0].log_offset if manifests else START_AT_BEGINNING
    history = LogFollower()
    tail = TopicTail(bootstrap_servers, topics.accepted, start, timeout_s)
    try:
        for entry in tail.read_to_end(timeout_s):
            history.apply(decode_log(entry.value or b""))
    finally:
        tail.close()
    statuses = read_compacted(bootstrap_servers, topics.status, timeout_s)
    answered = {
        key: decode_status(entry.value)
        for key, entry in statuses.items()
        if entry.value is not None
    }
    return Past(manifests, history, answered)


def shape_of(options: ControllerOptions, flow: Flow, timeout_s: float) -> JobShape:
    """The job that the command line and the flow describe, on the input topics as they are.

    Raises:
        UsageError: an input topic does not exist.
        BrokerError: the broker did not answer.
    """
    inputs = {
        label: vertex.topic_of(label)
        for vertex in flow.vertices
        if isinstance(vertex, SourceVertex)
        for label in vertex.inputs
    }
    topics = list(dict.fromkeys(inputs.values()))
    source = KafkaPartitions(
        options.bootstrap_servers,
        group=options.app,
        client_id=f"{options.app}.controller",
        timeout_s=timeout_s,
    )
    try:
        first = source.beginning_offsets(source.partitions_of(topics))
    finally:
        source.close()
    offsets: dict[str, list[int]] = {topic: [] for topic in topics}
    for (topic, _), offset in sorted(first.items()):
        offsets[topic].append(offset)
    start = {label: list(offsets[topic]) for label, topic in inputs.items()}
    return JobShape(
        bins=options.bins,
        workers=options.workers,
        gateways=options.gateways,
        vertices=stateful_of(flow.vertices),
        sink_groups=options.workers,
        start=start,
        until_end=options.until_end,
        delays=delays_of(flow.vertices),
    )


def settings_of(config: Config, checkpoint_every_s: float = 0.0) -> ControllerSettings:
    """The controller's knobs, in µs, and its schedule of checkpoints."""
    control, limits = config.control, config.limits
    return ControllerSettings(
        lookahead_us=int(control.lookahead_ms * 1000),
        plan_lookahead_us=int(control.plan_lookahead_ms * 1000),
        promise_every_us=int(control.promise_every_ms * 1000),
        members_wait_us=int(limits.start_timeout_s * 1e6),
        silence_us=int(limits.peer_timeout_s * 1e6),
        stop_wait_us=int(limits.stop_timeout_s * 1e6),
        checkpoints=CheckpointSettings(
            every_us=int(checkpoint_every_s * 1e6), wait_us=int(limits.stop_timeout_s * 1e6)
        ),
    )
