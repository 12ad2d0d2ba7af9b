"""What a process tells about itself: a heartbeat for the members topic, a reading for Prometheus.

Flow: member, its Kafka ends, controller machine -> [details_of, reading_of, ...] -> <app>.members
and telemetry.CATALOGUE. Functions of what they are given; nothing here decides, stores or sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from service.edges import KafkaEdges
from service.ids import Role
from service.member import Member
from service.migration.controller import ControllerMachine
from service.migration.records import MemberDetails
from service.statestore.slot_database import SlotDatabase
from service.telemetry import Reading
from service.telling import Teller


def details_of(
    member: Member, edges: KafkaEdges, lag: int, http: str, teller: Teller
) -> MemberDetails:
    """What a gateway or worker says of its work."""
    feeds = edges.feeds.values()
    return MemberDetails(
        # Reading may wait for a registry for as long as it takes; people should see why.
        reason=edges.problem,
        http=http,
        frontiers=member.frontiers(),
        rows_read=sum(feed.records_in for feed in feeds),
        rows_skipped=sum(feed.skipped for feed in feeds),
        bad_records=sum(feed.rejected for feed in feeds),
        lag=lag,
        rows_applied=sum(host.rows_applied for host in member.hosts.values()),
        outputs=sum(writer.rows for writer in edges.writers),
        bins_owned=len(member.owned_bins()),
        state_rows=state_rows(member),
        state_bytes=sum(host.store.total_nbytes for host in member.hosts.values()),
        updates_per_s=teller.updates_per_s,
        held_bytes=member.held_bytes,
    )


def reading_of(member: Member, edges: KafkaEdges, lag: int, teller: Teller, now_us: int) -> Reading:
    """What a gateway or worker tells Prometheus; `now_us` is its monotonic clock."""
    reading: dict[str, float | Mapping[str, float]] = {
        "megaphone_dataflow_queued_bytes": member.worker.queued_bytes(),
        "megaphone_dataflow_held_bytes": member.held_bytes,
        "megaphone_dataflow_progress_batches_total": member.worker.progress_batches_sent,
        "megaphone_dataflow_progress_bytes_total": member.worker.progress_bytes_sent,
    }
    oldest = min((time for time in member.frontiers().values() if time is not None), default=None)
    if oldest is not None:
        lag_us = max(0, member.ticks.now_us(now_us) - oldest)
        reading["megaphone_dataflow_frontier_lag_seconds"] = lag_us / 1e6
    if edges.feeds:
        reading |= _reading_of_feeds(edges, lag)
    if member.slot.role is Role.WORKER:
        reading |= _reading_of_state(member, edges, teller)
    return reading


def _reading_of_feeds(edges: KafkaEdges, lag: int) -> Reading:
    feeds = edges.feeds.values()
    rejected: Counter[str] = Counter()
    for feed in feeds:
        rejected.update(feed.rejected_by_reason())
    return {
        "megaphone_ingest_records_total": sum(feed.records_in for feed in feeds),
        "megaphone_ingest_skipped_total": sum(feed.skipped for feed in feeds),
        "megaphone_ingest_rejected_total": dict(rejected),
        "megaphone_ingest_lag_records": lag,
        "megaphone_ingest_paused": float(any(feed.paused for feed in feeds)),
    }


def _reading_of_state(member: Member, edges: KafkaEdges, teller: Teller) -> Reading:
    hosts = member.hosts.values()
    return {
        "megaphone_state_rows": state_rows(member),
        "megaphone_state_bytes": sum(host.store.total_nbytes for host in hosts),
        "megaphone_state_updates_per_second": teller.updates_per_s,
        "megaphone_state_rows_applied_total": sum(host.rows_applied for host in hosts),
        "megaphone_migration_bins_owned": len(member.owned_bins()),
        "megaphone_migration_bins_received_total": teller.bins_received,
        "megaphone_migration_bytes_received_total": teller.bytes_received,
        "megaphone_egress_records_total": sum(writer.rows for writer in edges.writers),
        "megaphone_egress_unacknowledged": sum(
            sink.unacknowledged for sink in member.sinks.values()
        ),
    }


def tier_reading(slot: SlotDatabase) -> Reading:
    """What a worker with a memory budget tells Prometheus of it."""
    tables = slot.tables
    return {
        "megaphone_state_memory_budget_bytes": slot.budget,
        "megaphone_state_resident_bytes": slot.resident_bytes,
        "megaphone_state_away_rows": sum(table.away_count for table in tables),
        "megaphone_state_recalled_rows_total": sum(table.recalled for table in tables),
        "megaphone_state_evicted_rows_total": sum(table.evicted for table in tables),
        "megaphone_state_lookups_total": slot.asked,
        "megaphone_state_rocksdb_bytes": slot.rocksdb_bytes(),
    }


def state_rows(member: Member) -> int:
    """Rows of keyed state in a process."""
    return sum(host.store.row_count for host in member.hosts.values())


def controller_details(machine: ControllerMachine, http: str) -> MemberDetails:
    """What the controller says: the request under way, and the owner of each bin."""
    plan, table = machine.plan, machine.table
    missing = ", ".join(machine.missing)
    return MemberDetails(
        reason=f"waits for {missing}" if machine.generation is None and missing else None,
        http=http,
        plan=plan.plan.id if plan is not None else None,
        owners=table.latest.tolist() if table is not None else None,
    )


def controller_reading(requests: Mapping[str, int], horizon_us: int, now_us: int) -> Reading:
    """What the controller tells Prometheus; after a stop the horizon is endless and not told."""
    reading: dict[str, float | Mapping[str, float]] = {
        "megaphone_control_requests_total": dict(requests)
    }
    ahead_s = (horizon_us - now_us) / 1e6
    if ahead_s < _HORIZON_ENDLESS_S:
        reading["megaphone_control_horizon_seconds"] = max(0.0, ahead_s)
    return reading


#: Further ahead no promise goes, but the end after a stop does.
_HORIZON_ENDLESS_S = 86_400.0
