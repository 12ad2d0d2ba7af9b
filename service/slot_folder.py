"""A slot's checkpoints in the state folder, and which of them a job still needs.

Flow: manifest -> [SlotFolder.restore] -> stores; stop -> [SlotFolder.write] -> files for the
manifest; manifest durable -> [SlotFolder.prune].

Invariants
  SF1  Reading and writing happen in a thread of their own while the loop goes on, so that a large
       slot is not taken for a dead one; nobody else touches the stores meanwhile.
  SF2  Files are removed only when a durable manifest that names newer ones has been read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from service.config import Config
from service.control_topics import AppTopics, read_compacted
from service.errors import StateCorrupt, UsageError
from service.ids import Role, Slot
from service.member import Member
from service.migration.records import ManifestRecord, decode_manifest
from service.readings import tier_reading
from service.statestore.checkpoint import (
    SlotFiles,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from service.statestore.description import remove_descriptions, write_description
from service.statestore.frozen import FrozenStore
from service.statestore.slot_database import LIVE, SlotDatabase
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from service.telemetry import Value

#: Manifests, and with them checkpoints, that are kept.
CHECKPOINTS_KEPT = 3


def newest_manifests(
    bootstrap_servers: str, topics: AppTopics, timeout_s: float
) -> list[ManifestRecord]:
    """All manifests of an app, newest first.

    Raises:
        BrokerError: the topic was not read to its end in time.
        FormatMismatch, ProtocolViolation: one of them cannot be read.
    """
    found = read_compacted(bootstrap_servers, topics.checkpoints, timeout_s)
    manifests = [decode_manifest(entry.value) for entry in found.values() if entry.value]
    return sorted(manifests, key=lambda manifest: manifest.cut, reverse=True)


class SlotFolder:
    """`<state dir>/<app>/<slot>`."""

    def __init__(
        self, state_dir: Path, bootstrap_servers: str, app: str, slot: Slot, config: Config
    ) -> None:
        """Name the folder; nothing is made yet."""
        self._parent = state_dir / app
        self.plays(slot)
        self._bootstrap = bootstrap_servers
        self._topics = AppTopics(app)
        self._timeout_s = config.limits.broker_timeout_s
        self._memory = config.worker.state_memory_bytes
        #: Where rows are that memory has no room for; None: all of them are in memory.
        self._database: SlotDatabase | None = None
        #: What is told of the newest checkpoint's part here.
        self._part: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def plays(self, slot: Slot) -> None:
        """Be the folder of `slot` from now on, before anything is read or written."""
        self.path = self._parent if slot.is_any else self._parent / str(slot)
        self._slot = str(slot)

    def check(self) -> None:
        """Make the folder and see that it can be written.

        Raises:
            UsageError: it cannot.
        """
        trial = self.path / ".trial"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            trial.write_bytes(b"")
            # Several may try the folder of their app at once.
            trial.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"state folder {self.path} cannot be written: {error.strerror}; "
                "choose another --state-dir"
            ) from error

    def restore(self, member: Member, manifest: str | None) -> Future[SlotFiles | None]:
        """Begin to fill the member's stores as of `manifest`, if the slot has files in it (SF1).

        The future raises:
            StateCorrupt: the manifest is gone, or files do not match it.
            FormatMismatch: the files are of another flow or format.
            StateError: the files cannot be read.
        """
        return self._thread.submit(self._restore, member, manifest)

    def _restore(self, member: Member, name: str | None) -> SlotFiles | None:
        if self._memory and member.slot.role is Role.WORKER and member.hosts:
            self._database = SlotDatabase(self.path / LIVE, self._memory)
            back_stores(member.stores, self._database)
        if name is None:
            return None
        manifests = newest_manifests(self._bootstrap, self._topics, self._timeout_s)
        manifest = next((each for each in manifests if each.name == name), None)
        if manifest is None:
            raise StateCorrupt(
                f"manifest {name!r} is not in topic {self._topics.checkpoints!r}, so the state it "
                "names cannot be proved whole; restore the topic or start under another --app"
            )
        files = files_of(manifest, self._slot)
        if files is not None and self._database is not None:
            read_tiered(self.path, files, member.stores, self._database)
        elif files is not None:
            read_checkpoint(self.path, files, member.stores)
        return files

    def write(self, member: Member, cut: int) -> Future[SlotFiles | None]:
        """Begin to write the member's state as of `cut`; None if it hosts none (SF1).

        The future raises:
            StateError: the disk refused.
        """
        return self._thread.submit(self._write, member, cut)

    def _write(self, member: Member, cut: int) -> SlotFiles | None:
        if member.slot.role is not Role.WORKER or not member.hosts:
            return None
        owned = member.owned_bins()
        if self._database is not None:
            files = write_tiered(self.path, cut, member.stores, owned, self._database)
        else:
            files = write_checkpoint(self.path, cut, member.stores, owned)
        write_description(self.path, files)
        return files

    def write_frozen(
        self, slot: Slot, cut: int, frozen: Mapping[str, FrozenStore]
    ) -> Future[SlotFiles | None]:
        """Begin to write copies as of `cut` while the job goes on; None if the slot hosts none.

        What no manifest names any more is removed first, so that checkpoints do not pile up (SF2).

        The future raises:
            StateError: the disk refused.
            BrokerError: the manifests were not read.
        """
        return self._thread.submit(self._write_frozen, slot, cut, frozen)

    def _write_frozen(
        self, slot: Slot, cut: int, frozen: Mapping[str, FrozenStore]
    ) -> SlotFiles | None:
        if slot.role is not Role.WORKER or not frozen:
            return None
        self.prune()
        bins = next(iter(frozen.values())).copied
        files = write_checkpoint(self.path, cut, frozen, bins)
        write_description(self.path, files)
        return files

    def prune(self) -> None:
        """Remove checkpoints that none of the newest manifests names (SF2); cheap without any.

        Raises:
            BrokerError: the manifests were not read.
            StateError: the disk refused.
        """
        if not self.path.is_dir():
            return
        manifests = newest_manifests(self._bootstrap, self._topics, self._timeout_s)
        kept: Iterable[SlotFiles | None] = (
            files_of(manifest, self._slot) for manifest in manifests[:CHECKPOINTS_KEPT]
        )
        remove_checkpoints(self.path, [files for files in kept if files is not None])
        remove_descriptions(self.path)

    def cut(self, size: int, waited_ns: int) -> None:
        """Note a checkpoint's part: its bytes, and how long rows waited for copies."""
        self._part = {
            "megaphone_checkpoint_part_bytes": size,
            "megaphone_checkpoint_wait_seconds": waited_ns / 1e9,
        }

    def reading(self) -> dict[str, Value]:
        """What Prometheus is told of the newest part, and of state beyond memory if there is."""
        beyond = {} if self._database is None else tier_reading(self._database)
        return {**self._part, **beyond}

    def close(self) -> None:
        """Let the thread go when its work is done."""
        if self._database is not None:
            # After whatever the thread is at: RocksDB is not closed under its own reader.
            self._thread.submit(self._database.close)
            self._thread.shutdown(wait=False)
            return
        self._thread.shutdown(wait=False, cancel_futures=True)


def files_of(manifest: ManifestRecord, slot: str) -> SlotFiles | None:
    """A slot's files in a manifest; None if it has none there.

    Raises:
        StateCorrupt: what is there lists no files.
    """
    files = manifest.files.get(slot)
    try:
        return None if files is None else msgspec.convert(files, SlotFiles)
    except msgspec.ValidationError as error:
        raise StateCorrupt(f"manifest {manifest.name!r} lists no files: {error}") from error
