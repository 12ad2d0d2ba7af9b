"""Dashboards of the parts of a job: ingest, state and processes."""

from __future__ import annotations

from dashboards.panel import (
    OPERATOR,
    WORKER,
    Board,
    Row,
    Unit,
    lines,
    most,
    one,
    rate,
    total,
)
from dashboards.shared import HELD, LAG, LATENCY, OWNED

INGEST = Board(
    "megaphone-ingest",
    "Megaphone / Ingest",
    "From Kafka into the dataflow: rates, what is refused, event time.",
    (
        Row(
            "Reading",
            (
                lines(
                    "Records read",
                    "Per second.",
                    (total(rate("ingest_records_total"), "slot"), "{{slot}}"),
                ),
                lines(
                    "Bytes read",
                    "Of values, per second.",
                    (total(rate("ingest_bytes_total"), "slot"), "{{slot}}"),
                    unit=Unit.BYTES_PER_SECOND,
                ),
                LAG,
                lines(
                    "Sources paused",
                    "Kept from reading by back-pressure; see Queues in Process.",
                    (total(one("ingest_paused_sources"), "slot"), "{{slot}}"),
                ),
            ),
        ),
        Row(
            "What is no row",
            (
                lines(
                    "Bad records",
                    "Dead-lettered since the gateways started, by reason.",
                    (total(one("ingest_rejected_records_total"), "reason"), "{{reason}}"),
                ),
                lines(
                    "Share of bad records",
                    "Of all that were read; an alert beyond 1 %.",
                    (
                        f"{total(rate('ingest_rejected_records_total'), 'slot')} / "
                        f"{total(rate('ingest_records_total'), 'slot')}",
                        "{{slot}}",
                    ),
                ),
                lines(
                    "Skipped records",
                    "Of types that the flow does not take, per second.",
                    (total(rate("ingest_skipped_records_total"), "slot"), "{{slot}}"),
                ),
            ),
        ),
        Row(
            "Time",
            (
                lines(
                    "Watermark lag",
                    "How far event time is behind the clock, by source.",
                    (
                        most(one("ingest_watermark_lag_seconds", OPERATOR), "operator", "slot"),
                        "{{operator}} {{slot}}",
                    ),
                    unit=Unit.SECONDS,
                ),
                LATENCY,
            ),
        ),
    ),
)

STATE = Board(
    "megaphone-state",
    "Megaphone / State",
    "Keyed state: how much there is, how often it changes, what is in memory and what on disk.",
    (
        Row(
            "How much",
            (
                lines(
                    "Rows",
                    "By operator.",
                    (total(one("state_rows", OPERATOR, WORKER), "operator"), "{{operator}}"),
                ),
                lines(
                    "Bytes",
                    "By operator and worker, as in memory.",
                    (
                        total(one("state_bytes", OPERATOR, WORKER), "operator", "slot"),
                        "{{operator}} {{slot}}",
                    ),
                    unit=Unit.BYTES,
                ),
                lines(
                    "Rows applied",
                    "Input rows folded into state, per second.",
                    (
                        total(
                            rate("state_applied_rows_total", OPERATOR, WORKER), "operator", "slot"
                        ),
                        "{{operator}} {{slot}}",
                    ),
                ),
                OWNED,
            ),
        ),
        Row(
            "Memory and disk (with --state-memory)",
            (
                lines(
                    "Memory",
                    "What tables take of the budget.",
                    (most(one("state_resident_bytes", WORKER), "slot"), "{{slot}}"),
                    (most(one("state_memory_budget_bytes", WORKER), "slot"), "{{slot}} budget"),
                    unit=Unit.BYTES,
                ),
                lines(
                    "RocksDB memory",
                    "By what for; write buffers are a part of the block cache.",
                    (total(one("state_rocksdb_bytes", WORKER), "part"), "{{part}}"),
                    unit=Unit.BYTES,
                ),
                lines(
                    "Rows on disk alone",
                    "By worker.",
                    (most(one("state_away_rows", WORKER), "slot"), "{{slot}}"),
                ),
                lines(
                    "Traffic with the disk",
                    "Per second; recalled far above evicted is a budget too small for what is hot.",
                    (total(rate("state_recalled_rows_total", WORKER)), "recalled"),
                    (total(rate("state_evicted_rows_total", WORKER)), "evicted"),
                    (total(rate("state_lookups_total", WORKER)), "looked for"),
                ),
            ),
        ),
        Row(
            "Checkpoints",
            (
                lines(
                    "Size",
                    "Bytes of each worker's files in the newest checkpoint.",
                    (most(one("checkpoint_part_bytes", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.BYTES,
                ),
                lines(
                    "Wait",
                    "How long rows waited for the copies of the newest one.",
                    (most(one("checkpoint_wait_seconds", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.SECONDS,
                ),
            ),
        ),
    ),
)

PROCESS = Board(
    "megaphone-process",
    "Megaphone / Process",
    "Each process: whether it lives, what it takes, its queues and its links to the others.",
    (
        Row(
            "Life",
            (
                lines(
                    "Loop age",
                    "Since the main loop last turned; a process that hangs climbs.",
                    (most(one("process_loop_age_seconds", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.SECONDS,
                ),
                lines(
                    "Uptime",
                    "Since the process started.",
                    (
                        f"time() - {most(one('process_start_timestamp_seconds', WORKER), 'slot')}",
                        "{{slot}}",
                    ),
                    unit=Unit.SECONDS,
                ),
                lines(
                    "Processor",
                    "Cores in use.",
                    (total(rate("process_cpu_seconds_total", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.CORES,
                ),
                lines(
                    "Memory",
                    "Resident, libraries included.",
                    (most(one("process_resident_bytes", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.BYTES,
                ),
            ),
        ),
        Row(
            "Queues",
            (
                lines(
                    "Queued",
                    "Bytes in the inputs of operators.",
                    (total(one("dataflow_queued_bytes", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.BYTES,
                ),
                HELD,
                lines(
                    "Credit used",
                    "Bytes sent to peers and not yet consumed, by class.",
                    (
                        total(one("dataflow_credit_used_bytes", WORKER), "slot", "class"),
                        "{{slot}} {{class}}",
                    ),
                    unit=Unit.BYTES,
                ),
                lines(
                    "Credit free",
                    "Bytes that may still be sent; at 0 the sender waits for its peers.",
                    (
                        most(one("dataflow_credit_free_bytes", WORKER), "slot", "class"),
                        "{{slot}} {{class}}",
                    ),
                    unit=Unit.BYTES,
                ),
                lines(
                    "Unacknowledged",
                    "Batches of results that Kafka has not stored yet.",
                    (total(one("egress_unacknowledged_batches", WORKER), "slot"), "{{slot}}"),
                ),
                lines(
                    "Control horizon",
                    "How far promises run ahead; near 0 the gateways may not tick.",
                    (most(one("control_horizon_seconds")), "horizon"),
                    unit=Unit.SECONDS,
                ),
            ),
        ),
        Row(
            "Links",
            (
                lines(
                    "Frames",
                    "Per second, by process.",
                    (total(rate("transport_sent_frames_total", WORKER), "slot"), "{{slot}} sent"),
                    (
                        total(rate("transport_received_frames_total", WORKER), "slot"),
                        "{{slot}} received",
                    ),
                ),
                lines(
                    "Bytes",
                    "Per second, by process.",
                    (total(rate("transport_sent_bytes_total", WORKER), "slot"), "{{slot}} sent"),
                    (
                        total(rate("transport_received_bytes_total", WORKER), "slot"),
                        "{{slot}} received",
                    ),
                    unit=Unit.BYTES_PER_SECOND,
                ),
                lines(
                    "Progress",
                    "Batches of the progress protocol, and their bytes, per second.",
                    (
                        total(rate("dataflow_progress_batches_total", WORKER), "slot"),
                        "{{slot}} batches",
                    ),
                    (
                        total(rate("dataflow_progress_bytes_total", WORKER), "slot"),
                        "{{slot}} bytes",
                    ),
                ),
                lines(
                    "Refused",
                    "Frames dropped, by reason; connections that spoke not our protocol, or ended.",
                    (total(one("transport_dropped_frames_total", WORKER), "reason"), "{{reason}}"),
                    (total(one("transport_failed_handshakes_total", WORKER)), "handshakes"),
                    (total(one("transport_ended_connections_total", WORKER)), "ended"),
                ),
            ),
        ),
    ),
)
