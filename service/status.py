"""`megaphone status`: what a running job says about itself on its topics.

Flow: <app>.members and <app>.status -> [read_status] -> docs/contracts/status.schema.json, or text.
"""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.table import Table

from service.config import Config
from service.control_topics import Admin, AppTopics, read_compacted
from service.errors import UsageError
from service.ids import Role
from service.migration.records import (
    MemberRecord,
    RequestState,
    StatusRecord,
    decode_member,
    decode_status,
)


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process, as its last heartbeat said."""

    slot: str
    role: str
    state: str
    address: str
    incarnation: str
    heartbeat: int
    generation: int | None
    details: dict[str, object]


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `megaphone status --output json`."""

    app: str
    generation: int | None
    members: list[MemberStatus]
    #: Worker slot of each bin, by bin number; null before the generation began.
    owners: list[int] | None
    #: Oldest open epoch (µs) of each stateful vertex and sink; null when nothing can arrive.
    frontiers: dict[str, int | None]
    #: The request under way, or null.
    plan: StatusRecord | None


def read_status(bootstrap_servers: str, app: str, config: Config) -> JobStatus:
    """Read the job's topics.

    Raises:
        UsageError: there is no such job.
        BrokerUnavailable: Kafka did not answer.
    """
    topics = AppTopics(app)
    timeout = config.limits.broker_timeout_s
    if topics.members not in Admin(bootstrap_servers, timeout).partitions():
        raise UsageError(
            f"no job {app!r} at {bootstrap_servers}: topic {topics.members!r} is absent"
        )
    members = [
        decode_member(entry.value)
        for entry in read_compacted(bootstrap_servers, topics.members, timeout).values()
        if entry.value is not None
    ]
    statuses = [
        decode_status(entry.value)
        for entry in read_compacted(bootstrap_servers, topics.status, timeout).values()
        if entry.value is not None
    ]
    under_way = (RequestState.ACCEPTED, RequestState.RUNNING)
    controller = next((m for m in members if m.role == Role.CONTROLLER), None)
    frontiers: dict[str, int | None] = {}
    for member in members:
        # The compacted topic remembers slots that this generation does not have.
        if controller is None or member.generation != controller.generation:
            continue
        for name, epoch in member.details.frontiers.items():
            known = frontiers.get(name, epoch)
            frontiers[name] = epoch if known is None or epoch is None else min(known, epoch)
    return JobStatus(
        app=app,
        generation=controller.generation if controller is not None else None,
        members=[_member(member) for member in sorted(members, key=lambda m: m.slot)],
        owners=controller.details.owners if controller is not None else None,
        frontiers=frontiers,
        plan=next((status for status in statuses if status.state in under_way), None),
    )


def print_status(bootstrap_servers: str, app: str, config: Config, *, as_json: bool) -> None:
    """Print a job's status to standard output."""
    status = read_status(bootstrap_servers, app, config)
    if as_json:
        sys.stdout.write(msgspec.json.encode(status).decode() + "\n")
        return
    table = Table(title=f"{app}, generation {status.generation}")
    for column in ("slot", "state", "bins", "rows", "lag", "address"):
        table.add_column(column, justify="right" if column in ("bins", "rows", "lag") else "left")
    for member in status.members:
        details = member.details
        table.add_row(
            member.slot,
            member.state,
            str(details.get("bins_owned", "")),
            str(details.get("state_rows", "")),
            str(details.get("lag", "")),
            member.address,
        )
    console = Console()
    console.print(table)
    if status.plan is not None:
        plan = status.plan
        console.print(
            f"plan {plan.id}: {plan.state}, {plan.bins} bins in {plan.waves} waves so far"
        )


def _member(record: MemberRecord) -> MemberStatus:
    details: dict[str, object] = msgspec.to_builtins(record.details)
    details.pop("owners", None)
    return MemberStatus(
        slot=record.slot,
        role=record.role,
        state=str(record.state),
        address=record.address,
        incarnation=record.incarnation,
        heartbeat=record.heartbeat,
        generation=record.generation,
        details=details,
    )
