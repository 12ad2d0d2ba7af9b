"""Panels that several dashboards have."""

from __future__ import annotations

from dashboards.panel import (
    OPERATOR,
    WORKER,
    Unit,
    lines,
    most,
    one,
    quantile,
    total,
)

LATENCY = lines(
    "Latency",
    "From a record's time in Kafka until Kafka has everything that came of it, by its tick.",
    *(
        (quantile(part, "dataflow_latency_seconds"), f"p{part * 100:g}")
        for part in (0.5, 0.95, 0.99)
    ),
    unit=Unit.SECONDS,
)
FRONTIER = lines(
    "Frontier lag",
    "How far each operator is behind the clock, as its slowest process sees it; milliseconds when "
    "all is well.",
    (most(one("dataflow_frontier_lag_seconds", OPERATOR), "operator"), "{{operator}}"),
    unit=Unit.SECONDS,
)
HELD = lines(
    "Held store",
    "Bytes of rows that wait for a frontier: a bin that is on its way, a cut, the horizon.",
    (total(one("dataflow_held_bytes", WORKER), "slot"), "{{slot}}"),
    unit=Unit.BYTES,
)
LAG = lines(
    "Input lag",
    "Records between the read position and the end of the input topics.",
    (total(one("ingest_lag_records"), "slot"), "{{slot}}"),
)
OWNED = lines(
    "Bins owned",
    "Bins hosted by each worker; in sum those of the job, unless some are on their way.",
    (most(one("migration_owned_bins", WORKER), "slot"), "{{slot}}"),
)
