"""A snapshot put into the newest checkpoint of a job that is down.

Flow: snapshot, state folder, <app>.checkpoints -> [import_snapshot] -> a new checkpoint of each
slot concerned -> the manifest, under its old name, with the new files -> the job's next start.

Invariants
  SI1  The manifest is written last: until then the job goes on from the files it named before,
       which are as they were.
  SI2  A job that runs is not touched: its next checkpoint would undo what was imported.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from service.config import Config
from service.control_topics import Admin, AppTopics, RecordWriter, read_compacted
from service.errors import UsageError
from service.ids import Role, Slot
from service.migration.records import (
    ManifestRecord,
    MemberRecord,
    MemberState,
    decode_member,
    encode,
)
from service.slot_folder import files_of, newest_manifests
from service.state_files import SlotCheckpoint
from service.state_snapshots import replace_bins
from service.statestore.checkpoint import SlotFiles
from service.statestore.description import write_description
from service.statestore.snapshot import Snapshot

_OVER = (MemberState.STOPPED, MemberState.FAILED)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    manifest: str
    #: Bins replaced, by slot.
    bins: dict[str, int]


def import_snapshot(
    snapshot: Snapshot,
    path: Path,
    bins: Collection[int] | None,
    bootstrap_servers: str,
    config: Config,
    now_us: int,
) -> Imported:
    """Replace bins of a job's newest checkpoint by those of a snapshot.

    Args:
        snapshot: where the bins come from.
        path: `<state-dir>/<app>`, or the folder of one worker in it.
        bins: which; None: all that the snapshot has.
        bootstrap_servers: Kafka of the job.
        config: waits.
        now_us: the wall clock, beside which heartbeats are judged.

    Raises:
        UsageError: no such job or checkpoint, the job runs, or a bin's worker is not in `path`.
        FormatMismatch: the snapshot is of another flow or number of bins.
        StateCorrupt: the snapshot or the checkpoint is damaged.
        BrokerError: Kafka did not answer, or did not take the manifest.
    """
    path = path.resolve()
    one = path.name if path.name.startswith(f"{Role.WORKER}-") else None
    root = path if one is None else path.parent
    topics, timeout_s = AppTopics(root.name), config.limits.broker_timeout_s
    if topics.checkpoints not in Admin(bootstrap_servers, timeout_s).partitions():
        raise UsageError(
            f"no job {root.name!r} at {bootstrap_servers}: the folder's name is taken for the "
            "app's; is it <state-dir>/<app>?"
        )
    _require_down(bootstrap_servers, topics, config, now_us)
    manifests = newest_manifests(bootstrap_servers, topics, timeout_s)
    if not manifests:
        raise UsageError(f"job {root.name!r} has no checkpoint; run it and stop it once")
    manifest = manifests[0]
    chosen = wanted_bins(snapshot, bins)
    parts = slots_of(manifest, chosen, root, one)
    snapshot.verify()
    replaced: dict[str, SlotFiles] = {}
    for slot, of_slot in parts.items():
        files = files_of(manifest, slot)
        if files is None:
            raise UsageError(f"manifest {manifest.name} has no state of {slot}")
        part = SlotCheckpoint(slot, root / slot, files)
        replaced[slot] = replace_bins(part, snapshot, of_slot)
        write_description(part.folder, replaced[slot])
    writer = RecordWriter(bootstrap_servers, f"{root.name}.import")
    writer.write(topics.checkpoints, manifest.name, encode(with_files(manifest, replaced)))
    writer.flush(timeout_s)
    return Imported(manifest.name, {slot: len(of_slot) for slot, of_slot in parts.items()})


def wanted_bins(snapshot: Snapshot, bins: Collection[int] | None) -> set[int]:
    """The bins to import.

    Raises:
        UsageError: there are none, or the snapshot does not have one of them.
    """
    has = {each.bin for vertex in snapshot.contents.vertices for each in vertex.bins}
    chosen = has if bins is None else set(bins)
    if not chosen:
        raise UsageError(f"{snapshot.path} has no bins")
    if chosen - has:
        raise UsageError(f"{snapshot.path} has no bin {min(chosen - has)}")
    return chosen


def slots_of(
    manifest: ManifestRecord, bins: Collection[int], root: Path, one: str | None
) -> dict[str, set[int]]:
    """The bins of each slot concerned, by the manifest's owners.

    Raises:
        UsageError: a bin is none of the job's, or its worker's folder is not here.
    """
    parts: dict[str, set[int]] = {}
    for bin_id in sorted(bins):
        if bin_id >= manifest.bins:
            raise UsageError(f"unknown bin {bin_id}; the job has bins 0 to {manifest.bins - 1}")
        slot = str(Slot(Role.WORKER, manifest.bin_owners[bin_id]))
        if one is not None and slot != one:
            raise UsageError(
                f"bin {bin_id} is {slot}'s by manifest {manifest.name}, not {one}'s; name the "
                "app's folder, or choose bins with --bins"
            )
        parts.setdefault(slot, set()).add(bin_id)
    for slot in parts:
        if not (root / slot).is_dir():
            raise UsageError(f"{root / slot} is not here; import on the machine that has it")
    return parts


def with_files(manifest: ManifestRecord, replaced: dict[str, SlotFiles]) -> ManifestRecord:
    """The manifest with other files of some slots."""
    files = {slot: msgspec.to_builtins(each) for slot, each in replaced.items()}
    return msgspec.structs.replace(manifest, files=manifest.files | files)


def _require_down(bootstrap_servers: str, topics: AppTopics, config: Config, now_us: int) -> None:
    """SI2; a process that was killed counts as down once it has been silent long enough."""
    timeout_s = config.limits.broker_timeout_s
    for entry in read_compacted(bootstrap_servers, topics.members, timeout_s).values():
        if entry.value is None:
            continue
        member = decode_member(entry.value)
        if is_up(member, now_us, int(config.limits.peer_timeout_s * 1e6)):
            raise UsageError(
                f"{member.slot} of job {topics.app!r} is {member.state}; stop the job first"
            )


def is_up(member: MemberRecord, now_us: int, silence_us: int) -> bool:
    """Whether a process still runs, as far as its last heartbeat tells."""
    return member.state not in _OVER and now_us - member.heartbeat <= silence_us
