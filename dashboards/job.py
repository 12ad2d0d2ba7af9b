"""Dashboards of the job as a whole: overview and migration."""

from __future__ import annotations

from dashboards.panel import (
    WORKER,
    Board,
    Panel,
    Query,
    Row,
    Shape,
    Unit,
    heatmap,
    lines,
    most,
    number,
    one,
    quantile,
    rate,
    total,
)
from dashboards.shared import FRONTIER, HELD, LAG, LATENCY, OWNED

OVERVIEW = Board(
    "megaphone-overview",
    "Megaphone / Overview",
    "Is the job well: what comes in, what goes out, how late it is.",
    (
        Row(
            "Now",
            (
                number(
                    "Running",
                    "Processes that take part in the running generation.",
                    total(one("process_state_info", 'state="running"')),
                ),
                number("Records in / s", "Read from Kafka.", total(rate("ingest_records_total"))),
                number("Records out / s", "Given to Kafka.", total(rate("egress_records_total"))),
                number(
                    "Latency p99",
                    "From Kafka to Kafka.",
                    quantile(0.99, "dataflow_latency_seconds"),
                    Unit.SECONDS,
                ),
                number("Records waiting", "Not read yet.", total(one("ingest_lag_records"))),
                number("Plans", "Migrations under way.", total(one("migration_active_plans"))),
            ),
        ),
        Row(
            "Traffic",
            (
                lines(
                    "Records",
                    "Per second, over all processes.",
                    (total(rate("ingest_records_total")), "in"),
                    (total(rate("egress_records_total")), "out"),
                ),
                lines(
                    "Bytes",
                    "Of values, per second, over all processes.",
                    (total(rate("ingest_bytes_total")), "in"),
                    (total(rate("egress_bytes_total")), "out"),
                    unit=Unit.BYTES_PER_SECOND,
                ),
            ),
        ),
        Row(
            "Timeliness",
            (
                LATENCY,
                heatmap(
                    "Latency by share",
                    "How many records took how long.",
                    "dataflow_latency_seconds",
                ),
                FRONTIER,
                LAG,
            ),
        ),
        Row(
            "Control",
            (
                lines(
                    "Requests",
                    "Answered since the controller started, by result.",
                    (total(one("control_requests_total"), "result"), "{{result}}"),
                ),
                lines(
                    "Checkpoint age",
                    "Since the cut of the newest one, and the time that should lie between two.",
                    (most(one("checkpoint_age_seconds")), "age"),
                    (most(one("checkpoint_interval_seconds")), "interval"),
                    unit=Unit.SECONDS,
                ),
                lines(
                    "Checkpoints",
                    "Since the controller started, by result.",
                    (total(one("checkpoint_attempts_total"), "result"), "{{result}}"),
                ),
                Panel(
                    "Builds",
                    "What each process runs; more than one version is an upgrade under way.",
                    (Query(one("process_build_info")),),
                    shape=Shape.TABLE,
                ),
            ),
        ),
    ),
)

MIGRATION = Board(
    "megaphone-migration",
    "Megaphone / Migration",
    "Bins on the move: how far a plan is and what it costs. Marks: a plan's first cut, its end.",
    (
        Row(
            "Newest plan",
            (
                number("Active", "Plans that move bins.", total(one("migration_active_plans"))),
                number("Pending", "Plans that wait.", total(one("migration_pending_plans"))),
                number("Bins to move", "By all plans.", total(one("migration_pending_bins"))),
                number(
                    "Duration",
                    "From first cut to now, or to the end.",
                    most(one("migration_duration_seconds")),
                    Unit.SECONDS,
                ),
                number(
                    "Longest wait",
                    "Of rows for a bin.",
                    most(one("migration_longest_wait_seconds")),
                    Unit.SECONDS,
                ),
                number(
                    "Ended",
                    "When the last plan ended.",
                    f"1000 * {most(one('migration_end_timestamp_seconds'))}",
                    Unit.TIME,
                ),
            ),
        ),
        Row(
            "What moves",
            (
                OWNED,
                lines(
                    "Bins left",
                    "Of plans accepted; straight down is as it should be.",
                    (total(one("migration_pending_bins")), "bins"),
                ),
                lines(
                    "State received",
                    "Bytes per second, by the worker that takes them.",
                    (total(rate("migration_received_bytes_total", WORKER), "slot"), "{{slot}}"),
                    unit=Unit.BYTES_PER_SECOND,
                ),
                lines(
                    "Bins received",
                    "Since each worker started; a bin counts once per stateful operator.",
                    (total(one("migration_received_bins_total", WORKER), "slot"), "{{slot}}"),
                ),
                lines(
                    "Waves",
                    "Completed since the controller started.",
                    (total(one("migration_wave_seconds_count")), "waves"),
                ),
                lines(
                    "Wave duration",
                    "From its cut to its completion, over the time shown.",
                    (quantile(0.5, "migration_wave_seconds", "$__range"), "p50"),
                    (quantile(0.99, "migration_wave_seconds", "$__range"), "p99"),
                    unit=Unit.SECONDS,
                ),
            ),
        ),
        Row(
            "What it costs",
            (
                LATENCY,
                FRONTIER,
                HELD,
                lines(
                    "State under way",
                    "Bytes of state sent and not yet consumed, by sender.",
                    (
                        total(one("dataflow_credit_used_bytes", 'class=~"state|aside"'), "slot"),
                        "{{slot}}",
                    ),
                    unit=Unit.BYTES,
                ),
            ),
        ),
    ),
)
