"""What a process tells Prometheus: one collector that reads the process's own counters.

Flow: parts count in plain integers -> [ProcessCollector] reads them when scraped -> /metrics.
Nothing is counted twice and nothing is updated on the hot path.

Invariants
  T1  Names are megaphone_<subsystem>_<thing>_<unit>[_total]; the only labels are app, slot, reason.
  T2  A scrape reads integers and never blocks the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name (T1), whether it only grows, and what it says."""

    name: str
    counter: bool
    help: str


#: Every metric of the service, in the order documents list them.
CATALOGUE: tuple[MetricSpec, ...] = (
    MetricSpec("megaphone_ingest_records_total", True, "Records read from Kafka."),
    MetricSpec("megaphone_ingest_skipped_total", True, "Records of types the flow does not take."),
    MetricSpec("megaphone_ingest_rejected_total", True, "Bad records, dead-lettered, by reason."),
    MetricSpec("megaphone_ingest_lag_records", False, "Records between position and end offset."),
    MetricSpec("megaphone_ingest_paused", False, "1 while reading is stopped by back-pressure."),
    MetricSpec("megaphone_dataflow_frontier_lag_seconds", False, "Clock minus oldest open epoch."),
    MetricSpec("megaphone_dataflow_queued_bytes", False, "Bytes waiting in operators' inputs."),
    MetricSpec("megaphone_dataflow_held_bytes", False, "Bytes of rows waiting for a frontier."),
    MetricSpec("megaphone_dataflow_progress_batches_total", True, "Progress batches broadcast."),
    MetricSpec("megaphone_dataflow_progress_bytes_total", True, "Bytes of progress sent to peers."),
    MetricSpec("megaphone_state_rows", False, "Rows of keyed state."),
    MetricSpec("megaphone_state_bytes", False, "Bytes of keyed state, as it is in memory."),
    MetricSpec("megaphone_state_updates_per_second", False, "Rows folded into state, of late."),
    MetricSpec("megaphone_state_memory_budget_bytes", False, "Memory for keyed state, at most."),
    MetricSpec("megaphone_state_resident_bytes", False, "Bytes of it that tables take."),
    MetricSpec("megaphone_state_rocksdb_bytes", False, "Bytes RocksDB takes, by what for."),
    MetricSpec("megaphone_state_away_rows", False, "Rows of keyed state on disk alone."),
    MetricSpec("megaphone_state_recalled_rows_total", True, "Rows read back into memory."),
    MetricSpec("megaphone_state_evicted_rows_total", True, "Rows that left memory."),
    MetricSpec("megaphone_state_lookups_total", True, "Keys looked for on disk."),
    MetricSpec("megaphone_state_rows_applied_total", True, "Input rows folded into state."),
    MetricSpec("megaphone_migration_bins_owned", False, "Bins hosted by this process."),
    MetricSpec(
        "megaphone_migration_bins_received_total", True, "Bins installed from other workers."
    ),
    MetricSpec("megaphone_migration_bytes_received_total", True, "Bytes of state installed."),
    MetricSpec("megaphone_egress_records_total", True, "Rows handed to the Kafka producer."),
    MetricSpec("megaphone_egress_unacknowledged", False, "Batches Kafka has not acknowledged."),
    MetricSpec("megaphone_control_requests_total", True, "Control requests by final state."),
    MetricSpec("megaphone_control_horizon_seconds", False, "Horizon promised, ahead of the clock."),
    MetricSpec(
        "megaphone_process_loop_age_seconds", False, "Time since the main loop last turned."
    ),
)

#: A scrape: metric name -> value, or reason -> value for metrics that have reasons.
Reading = Mapping[str, float | Mapping[str, float]]


class ProcessCollector(Collector):
    """Turns one process's reading into metric families."""

    def __init__(self, app: str, slot: str, read: Callable[[], Reading]) -> None:
        """Label everything with `app` and `slot`; `read` is called at each scrape."""
        self._labels = [app, slot]
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Families for what the process knows; what it does not have is absent, not zero."""
        reading = self._read()
        for spec in CATALOGUE:
            value = reading.get(spec.name)
            if value is None:
                continue
            with_reason = isinstance(value, Mapping)
            names = ["app", "slot", *(["reason"] if with_reason else [])]
            family: CounterMetricFamily | GaugeMetricFamily
            if spec.counter:
                family = CounterMetricFamily(spec.name, spec.help, labels=names)
            else:
                family = GaugeMetricFamily(spec.name, spec.help, labels=names)
            if isinstance(value, Mapping):
                for reason, number in value.items():
                    family.add_metric([*self._labels, reason], number)
            else:
                family.add_metric(self._labels, value)
            yield family


def registry_of(app: str, slot: str, read: Callable[[], Reading]) -> CollectorRegistry:
    """A registry with one process's collector and nothing else."""
    registry = CollectorRegistry()
    registry.register(ProcessCollector(app, slot, read))
    return registry
