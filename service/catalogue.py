"""Every metric of the service: its name, what it counts, and which process tells it.

Flow: [CATALOGUE] -> telemetry, which makes families of it; docs/OPERATING.md, the dashboards and
the alerts, which tests compare with it.

Invariants
  MC1  Names are megaphone_<subsystem>_<thing>_<unit>[_total], where the thing is left out if the
       unit says it (`state_rows`); `_total` stands behind what only grows. Times are in seconds and
       sizes in bytes.
  MC2  Labels are `app` and `slot`, and one or two more whose values are few and known when the job
       starts: never a key, a bin, a partition or an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric is for Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric."""

    name: str
    kind: Kind
    help: str
    #: Roles whose processes tell it, and what else must be so.
    on: str
    #: Beside `app` and `slot` (MC2).
    labels: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The last word of the name, without `_total` (MC1)."""
        return self.name.removesuffix("_total").rpartition("_")[2]


def _counter(name: str, on: str, help_: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"megaphone_{name}_total", Kind.COUNTER, help_, on, labels)


def _gauge(name: str, on: str, help_: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"megaphone_{name}", Kind.GAUGE, help_, on, labels)


def _histogram(name: str, on: str, help_: str) -> MetricSpec:
    return MetricSpec(f"megaphone_{name}", Kind.HISTOGRAM, help_, on)


_GATEWAY = "gateway"
_WORKER = "worker"
_BOTH = "gateway, worker"
_TIERED = "worker with `--state-memory`"
_WRITER = "worker, or gateway, that writes to a sink"
_CONTROLLER = "controller"
_ALL = "all"

#: In the order in which documents list them.
CATALOGUE: tuple[MetricSpec, ...] = (
    _counter("ingest_records", _GATEWAY, "Records read from Kafka."),
    _counter("ingest_bytes", _GATEWAY, "Bytes of their values."),
    _counter("ingest_skipped_records", _GATEWAY, "Records of types the flow does not take."),
    _counter("ingest_rejected_records", _GATEWAY, "Bad records, dead-lettered.", "reason"),
    _gauge("ingest_lag_records", _GATEWAY, "Records between position and end offset."),
    _gauge("ingest_paused_sources", _GATEWAY, "Sources that back-pressure keeps from reading."),
    _gauge(
        "ingest_watermark_lag_seconds",
        "gateway with event time",
        "Clock minus the watermark of a source here.",
        "operator",
    ),
    _histogram(
        "dataflow_latency_seconds",
        _GATEWAY,
        "From Kafka's time of a record until Kafka has all that came of it; up to eight records of "
        "a poll stand for it.",
    ),
    _gauge("dataflow_frontier_lag_seconds", _BOTH, "Clock minus oldest open epoch.", "operator"),
    _gauge("dataflow_queued_bytes", _BOTH, "Bytes waiting in operators' inputs."),
    _gauge("dataflow_held_bytes", _BOTH, "Bytes of rows waiting for a frontier."),
    _gauge(
        "dataflow_credit_used_bytes", _BOTH, "Bytes sent to peers and not yet consumed.", "class"
    ),
    _gauge("dataflow_credit_free_bytes", _BOTH, "Bytes that may still be sent to peers.", "class"),
    _counter("dataflow_progress_batches", _BOTH, "Progress batches broadcast."),
    _counter("dataflow_progress_bytes", _BOTH, "Bytes of progress sent to peers."),
    _counter("transport_sent_frames", _ALL, "Frames sent to other processes."),
    _counter("transport_sent_bytes", _ALL, "Bytes of their bodies."),
    _counter("transport_received_frames", _ALL, "Frames received from other processes."),
    _counter("transport_received_bytes", _ALL, "Bytes of their bodies."),
    _counter("transport_dropped_frames", _ALL, "Frames not taken or not sent.", "reason"),
    _counter(
        "transport_failed_handshakes",
        _ALL,
        "Connections that did not speak the protocol, or had no key that is listed.",
    ),
    _counter(
        "transport_ended_connections",
        _ALL,
        "Connections to it that ended: of peers that stopped, or that sent too large a message.",
    ),
    _gauge("state_rows", _WORKER, "Rows of keyed state.", "operator"),
    _gauge("state_bytes", _WORKER, "Bytes of keyed state, as it is in memory.", "operator"),
    _counter("state_applied_rows", _WORKER, "Input rows folded into state.", "operator"),
    _gauge("state_memory_budget_bytes", _TIERED, "Memory for keyed state, at most."),
    _gauge("state_resident_bytes", _TIERED, "Bytes of it that tables take."),
    _gauge("state_rocksdb_bytes", _TIERED, "Bytes of memory RocksDB takes, by what for.", "part"),
    _gauge("state_away_rows", _TIERED, "Rows of keyed state on disk alone."),
    _counter("state_recalled_rows", _TIERED, "Rows read back into memory."),
    _counter("state_evicted_rows", _TIERED, "Rows that left memory."),
    _counter("state_lookups", _TIERED, "Keys looked for on disk."),
    _gauge("migration_owned_bins", _WORKER, "Bins hosted by this process."),
    _counter("migration_received_bins", _WORKER, "Bins installed from other workers."),
    _counter("migration_received_bytes", _WORKER, "Bytes of state installed."),
    _gauge("migration_active_plans", _CONTROLLER, "Plans that move bins now, or are paused."),
    _gauge("migration_pending_plans", _CONTROLLER, "Plans accepted that have not begun."),
    _gauge("migration_pending_bins", _CONTROLLER, "Bins that accepted plans have yet to move."),
    _gauge("migration_duration_seconds", _CONTROLLER, "From first cut to end of the newest plan."),
    _gauge(
        "migration_longest_wait_seconds",
        _CONTROLLER,
        "Longest that rows waited for a bin of the newest plan.",
    ),
    _gauge(
        "migration_start_timestamp_seconds", _CONTROLLER, "First cut of the newest plan, Unix time."
    ),
    _gauge("migration_end_timestamp_seconds", _CONTROLLER, "When the last plan ended, Unix time."),
    _histogram("migration_wave_seconds", _CONTROLLER, "From a wave's cut to its completion."),
    _counter("egress_records", _WRITER, "Rows handed to the Kafka producer."),
    _counter("egress_bytes", _WRITER, "Bytes of their values."),
    _gauge("egress_unacknowledged_batches", _WRITER, "Batches Kafka has not acknowledged."),
    _counter("control_requests", _CONTROLLER, "Control requests answered.", "result"),
    _gauge("control_horizon_seconds", _CONTROLLER, "Horizon promised, ahead of the clock."),
    _counter("checkpoint_attempts", _CONTROLLER, "Checkpoints written or given up.", "result"),
    _gauge("checkpoint_age_seconds", _CONTROLLER, "Clock minus cut of the newest checkpoint."),
    _gauge(
        "checkpoint_interval_seconds",
        "controller with `--checkpoint-every`",
        "Time between checkpoints.",
    ),
    _gauge("checkpoint_part_bytes", _WORKER, "Bytes of the newest checkpoint's files here."),
    _gauge("checkpoint_wait_seconds", _WORKER, "How long rows waited for its copies."),
    _gauge("process_loop_age_seconds", _ALL, "Time since the main loop last turned."),
    _gauge("process_resident_bytes", _ALL, "Memory of the process."),
    _counter("process_cpu_seconds", _ALL, "Processor time of the process."),
    _gauge("process_start_timestamp_seconds", _ALL, "When the process started, Unix time."),
    _gauge("process_state_info", _ALL, "1; what the process says it is doing.", "state"),
    _gauge("process_build_info", _ALL, "1; what is running.", "version", "python"),
)
