"""What a process tells about itself: a heartbeat for the members topic, a reading for Prometheus.

Flow: member, its Kafka ends, controller machine -> [details_of, reading_of, ...] -> <app>.members
and service.catalogue. Functions of what they are given; nothing here decides, stores or sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields

from service.dataflow.transport.credit import CreditClass
from service.edges import KafkaEdges
from service.ids import Role
from service.links import Links
from service.member import Member
from service.migration.controller import ControllerMachine
from service.migration.records import MemberDetails
from service.statestore.slot_database import SlotDatabase
from service.telemetry import Value
from service.telling import Teller

#: Counters of frames dropped, by why.
_DROPPED = "dropped_"


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


def reading_of(
    member: Member, edges: KafkaEdges, lag: int, teller: Teller, links: Links, now_us: int
) -> dict[str, Value]:
    """What a gateway or worker tells Prometheus; `now_us` is its monotonic clock."""
    clock_us = member.ticks.now_us(now_us)
    credit = member.worker.credit_bytes()
    reading: dict[str, Value] = {
        "megaphone_dataflow_frontier_lag_seconds": {
            name: max(0, clock_us - oldest) / 1e6
            for name, oldest in member.frontiers().items()
            if oldest is not None
        },
        "megaphone_dataflow_queued_bytes": member.worker.queued_bytes(),
        "megaphone_dataflow_held_bytes": member.held_bytes,
        "megaphone_dataflow_credit_used_bytes": _by_class(credit, 0),
        "megaphone_dataflow_credit_free_bytes": _by_class(credit, 1),
        "megaphone_dataflow_progress_batches_total": member.worker.progress_batches_sent,
        "megaphone_dataflow_progress_bytes_total": member.worker.progress_bytes_sent,
    }
    reading |= links_reading(links)
    if edges.feeds:
        reading |= _reading_of_feeds(member, edges, lag)
    if member.slot.role is Role.WORKER:
        reading |= _reading_of_state(member, teller)
    if edges.writers:
        reading |= _reading_of_writers(member, edges)
    return reading


def links_reading(links: Links) -> dict[str, Value]:
    """What went over the sockets and what was refused; nothing where there are none."""
    counters = links.counters
    if counters is None:
        return {}
    dropped = {
        field.name.removeprefix(_DROPPED): float(getattr(counters, field.name))
        for field in fields(counters)
        if field.name.startswith(_DROPPED)
    }
    return {
        "megaphone_transport_sent_frames_total": counters.frames_sent,
        "megaphone_transport_sent_bytes_total": counters.bytes_sent,
        "megaphone_transport_received_frames_total": counters.frames_received,
        "megaphone_transport_received_bytes_total": counters.bytes_received,
        "megaphone_transport_dropped_frames_total": dropped,
        "megaphone_transport_failed_handshakes_total": counters.failed_handshakes,
        "megaphone_transport_ended_connections_total": counters.ended_connections,
    }


def _by_class(credit: Mapping[CreditClass, tuple[int, int]], which: int) -> dict[str, float]:
    return {kind.name.lower(): amounts[which] for kind, amounts in credit.items()}


def _reading_of_feeds(member: Member, edges: KafkaEdges, lag: int) -> dict[str, Value]:
    feeds = edges.feeds.values()
    rejected: Counter[str] = Counter()
    for feed in feeds:
        rejected.update(feed.rejected_by_reason())
    return {
        "megaphone_ingest_records_total": sum(feed.records_in for feed in feeds),
        "megaphone_ingest_bytes_total": sum(feed.bytes_in for feed in feeds),
        "megaphone_ingest_skipped_records_total": sum(feed.skipped for feed in feeds),
        "megaphone_ingest_rejected_records_total": dict(rejected),
        "megaphone_ingest_lag_records": lag,
        "megaphone_ingest_paused_sources": sum(feed.paused for feed in feeds),
        "megaphone_ingest_watermark_lag_seconds": edges.watermark_lags(member),
        "megaphone_dataflow_latency_seconds": edges.latency.read(),
    }


def _reading_of_state(member: Member, teller: Teller) -> dict[str, Value]:
    hosts = member.hosts
    return {
        "megaphone_state_rows": {name: host.store.row_count for name, host in hosts.items()},
        "megaphone_state_bytes": {name: host.store.total_nbytes for name, host in hosts.items()},
        "megaphone_state_applied_rows_total": {
            name: host.rows_applied for name, host in hosts.items()
        },
        "megaphone_migration_owned_bins": len(member.owned_bins()),
        "megaphone_migration_received_bins_total": teller.bins_received,
        "megaphone_migration_received_bytes_total": teller.bytes_received,
    }


def _reading_of_writers(member: Member, edges: KafkaEdges) -> dict[str, Value]:
    return {
        "megaphone_egress_records_total": sum(writer.rows for writer in edges.writers),
        "megaphone_egress_bytes_total": sum(writer.bytes for writer in edges.writers),
        "megaphone_egress_unacknowledged_batches": sum(
            sink.unacknowledged for sink in member.sinks.values()
        ),
    }


def behind_of(member: Member, now_us: int, most_s: float) -> str:
    """Why a member has yet to catch up; nothing if no frontier is more than `most_s` behind."""
    oldest = min((time for time in member.frontiers().values() if time is not None), default=None)
    lag_s = 0.0 if oldest is None else (member.ticks.now_us(now_us) - oldest) / 1e6
    return f"its oldest open epoch is {lag_s:.1f} s behind" if lag_s > most_s else ""


def tier_reading(slot: SlotDatabase) -> dict[str, Value]:
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
