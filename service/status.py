"""`megaphone status`: what a running job says about itself on its topics.

Flow: <app>.members and <app>.status -> [read_status] -> docs/contracts/status.schema.json, or text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.clock import SystemClock
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
        BrokerError: a topic could not be read to its end.
    """
    topics = job_topics(bootstrap_servers, app, config)
    timeout = config.limits.broker_timeout_s
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
    return status_of(app, members, statuses)


def job_topics(bootstrap_servers: str, app: str, config: Config) -> AppTopics:
    """The topics of a job that was started at least once.

    Raises:
        UsageError: there is no such job.
        BrokerUnavailable: Kafka did not answer.
    """
    topics = AppTopics(app)
    existing = Admin(bootstrap_servers, config.limits.broker_timeout_s).partitions()
    if topics.members not in existing or topics.status not in existing:
        raise UsageError(
            f"no job {app!r} at {bootstrap_servers}: topic {topics.members!r} is absent"
        )
    return topics


def status_of(
    app: str, members: Sequence[MemberRecord], statuses: Sequence[StatusRecord]
) -> JobStatus:
    """The document that the newest heartbeats and statuses of an app make."""
    # One that is accepted may queue behind the one that goes on.
    going_on = (RequestState.RUNNING, RequestState.PAUSED)
    controller = next((m for m in members if m.role == Role.CONTROLLER), None)
    frontiers: dict[str, int | None] = {}
    for member in members:
        # The compacted topic remembers slots that this generation does not have.
        if controller is None or member.generation != controller.generation:
            continue
        for name, epoch in member.details.frontiers.items():
            known = frontiers.setdefault(name, epoch)
            if epoch is not None and (known is None or epoch < known):
                frontiers[name] = epoch
    return JobStatus(
        app=app,
        generation=controller.generation if controller is not None else None,
        members=[_member(member) for member in sorted(members, key=lambda m: m.slot)],
        owners=controller.details.owners if controller is not None else None,
        frontiers=frontiers,
        plan=next((status for status in statuses if status.state in going_on), None)
        or next((status for status in statuses if status.state is RequestState.ACCEPTED), None),
    )


def print_status(bootstrap_servers: str, app: str, config: Config, *, as_json: bool) -> None:
    """Print a job's status to standard output."""
    status = read_status(bootstrap_servers, app, config)
    if as_json:
        sys.stdout.write(msgspec.json.encode(status).decode() + "\n")
    else:
        Console().print(text_of(status, SystemClock().wall_us()))


def text_of(status: JobStatus, now_us: int) -> RenderableType:
    """The status for a person; `now_us` is the reader's wall clock."""
    title = Text(f"{status.app}, generation {status.generation}")
    workers = [member for member in status.members if member.role == Role.WORKER]
    others = [member for member in status.members if member.role != Role.WORKER]
    tables = [
        _table(title, others, {"read": "rows_read", "lag": "lag", "bad": "bad_records"}, now_us),
        _table(
            None,
            workers,
            {
                "bins": "bins_owned",
                "rows": "state_rows",
                "bytes": "state_bytes",
                "updates/s": "updates_per_s",
            },
            now_us,
        ),
    ]
    lines = [
        f"{member.slot}: {member.details['reason']}"
        for member in status.members
        if member.details.get("reason")
    ]
    for name, epoch in status.frontiers.items():
        behind = "nothing can arrive" if epoch is None else f"{(now_us - epoch) / 1e6:.3f} s behind"
        lines.append(f"frontier of {name}: {behind}")
    if (plan := status.plan) is not None:
        waves, took = plan.waves, plan.duration_ms
        lines.append(f"plan {plan.id}: {plan.state}, {plan.bins} bins, {waves} waves, {took} ms")
    return Group(*tables, *map(Text, lines))


def _table(
    title: Text | None, members: Sequence[MemberStatus], counts: Mapping[str, str], now_us: int
) -> Table:
    """Members of like roles: who and how they are, and what `counts` names of their details."""
    table = Table(title=title, title_justify="left")
    for column in ("slot", "state"):
        table.add_column(column)
    for column in ("heard", *counts):
        table.add_column(column, justify="right")
    table.add_column("http")
    for member in members:
        details = member.details
        shown = (_size if column == "bytes" else _count for column in counts)
        table.add_row(
            member.slot,
            member.state,
            f"{max(0, now_us - member.heartbeat) / 1e6:.1f} s ago",
            *(show(details, name) for show, name in zip(shown, counts.values(), strict=True)),
            str(details.get("http") or ""),
        )
    return table


def _count(details: Mapping[str, object], name: str) -> str:
    value = details.get(name, 0)
    return f"{value:,}" if isinstance(value, int) else ""


def _size(details: Mapping[str, object], name: str) -> str:
    value = details.get(name, 0)
    return size_text(value) if isinstance(value, int) else ""


def size_text(size: int) -> str:
    """Bytes for a person.

    >>> size_text(3_500_000)
    '3.5 MB'
    """
    if size < 1_000:
        return f"{size} B"
    scaled = size / 1_000
    for unit in ("kB", "MB", "GB"):
        if scaled < 1_000:
            return f"{scaled:.1f} {unit}"
        scaled /= 1_000
    return f"{scaled:,.1f} TB"


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
