"""How processes tell one another about pointstamps: when to speak, and in which order to listen.

Flow: ChangeBatch of each activation -> [ProgressSender] -> every process, itself included
      -> [ProgressReceiver] -> Tracker.
Pure: batches in, batches out; sockets are the engine's.

Every process broadcasts signed counts in numbered batches. A tracker has seen a prefix of each
sender's batches, different prefixes of different senders. An action's changes travel in one batch
and everything it creates is preceded by something it held, therefore a frontier computed from any
such prefixes is never ahead of the true one. A process learns of its own actions the same way, when
its own batch comes back (in memory, at once); it never edits its tracker directly.

When to speak. Only one kind of news can move anybody's frontier forward: a decrease of a pointstamp
that nothing else precedes. So changes are summed up, and everything is sent as soon as some
buffered pointstamp p has a negative sum and
  (a) nothing else in the local view could result in p (`Tracker.is_preceded`), and
  (b) p is not a capability that this process itself still holds.
In (b) what counts is the process's OWN contribution: all it ever recorded for p, sent or not.
Judging by the view of all processes instead deadlocks: each sees the others' capabilities, and all
wait for one another. Contributions are kept for capabilities only. They never move between
processes, so their sum is what is held right now and the table stays as small as that; for messages
the sender's +1 and the receiver's -1 would never meet in one process.

Why this never deadlocks. Suppose everything sent has arrived, nobody can act, and q is minimal in
the common view. If q is real, whoever holds it holds the frontiers rightly. If it is not, some
process buffers a negative sum for q; nothing precedes q; and should q be a capability, that process
holds none of it, as real holdings are never negative. So it speaks. Hence at rest every frontier is
the true one, whatever is still buffered. A view also changes without new records, so `ready` must
be asked again after every `propagate`.

Invariants
  BC1  Batches of a sender are numbered from 0 without gaps, and received in order.
  BC2  `take` hands over everything buffered: an action is never split (CB2).
  BC3  Within a batch increases come first.
  BC4  At most CHANGES_BUFFERED_MAX pointstamps stay buffered: speaking early is always safe.

Source: Murray et al., "Naiad", SOSP 2013, section 3.3, whose rule as printed deadlocks; the
released code uses the own contribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from service.dataflow.progress.change_batch import Change, ChangeBatch
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.progress_codec import (
    ProgressBatch,
    decode_progress,
    encode_progress,
)
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.topology import FrozenTopology
from service.dataflow.progress.tracker import Tracker

__all__ = [
    "CHANGES_BUFFERED_MAX",
    "ProgressBatch",
    "ProgressReceiver",
    "ProgressSender",
    "decode_progress",
    "encode_progress",
]

#: Buffered pointstamps after which a batch is sent whatever the rule says (BC4). Checking them all
#: then takes about 0.1 ms, and the encoded batch stays within one small packet burst (about 2 kB).
CHANGES_BUFFERED_MAX: Final = 256


class ProgressSender:
    """Sums up this process's changes and decides when to broadcast them."""

    __slots__ = ("_buffer", "_checked_version", "_held", "_is_source", "_sequence")

    def __init__(self, topology: FrozenTopology, sequence: int = 0) -> None:
        """Start with nothing buffered; `sequence` is the number of the next batch."""
        self._is_source = topology.is_source
        self._buffer = ChangeBatch()
        #: {(source location, time): capabilities this process holds}.
        self._held: dict[tuple[int, Timestamp], int] = {}
        self._sequence = sequence
        #: Version of the tracker for which `ready` last said no; -1 after new records.
        self._checked_version = -1

    @property
    def sequence(self) -> int:
        """Number of the batch that `take` will make next."""
        return self._sequence

    @property
    def is_empty(self) -> bool:
        """Whether nothing is buffered."""
        return self._buffer.is_empty

    @property
    def held(self) -> Mapping[tuple[int, Timestamp], int]:
        """Capabilities that this process holds, by (location, time), as far as recorded."""
        return self._held

    def is_right(self, location: int) -> bool:
        """Whether what is counted at a location are capabilities, not messages."""
        return self._is_source[location]

    def assume(self, changes: Iterable[Change]) -> None:
        """Count capabilities that this process holds and every process knows of without being told.

        For start-up, when every tracker is given the same initial counts. Leaving it out is safe
        and only makes the sender speak more often.
        """
        for change in changes:
            self._hold(*change)

    def record(self, changes: Iterable[Change]) -> None:
        """Buffer the changes of one whole action, or of several."""
        for location, time, delta in changes:
            self._buffer.update(location, time, delta)
            if self._is_source[location]:
                self._hold(location, time, delta)
        self._checked_version = -1

    def grant(self, changes: Iterable[Change]) -> None:
        """Buffer increases of capabilities that another process will hold: it `assume`s them (JN4).

        Recorded as this process's own they would count as held here for ever, and silence it (b).
        """
        self._buffer.extend(changes)
        self._checked_version = -1

    def ready(self, tracker: Tracker) -> bool:
        """Whether to broadcast now; ask after `record` and after every `propagate`.

        Args:
            tracker: this process's view, all updates propagated.

        Cost: O(buffered), nothing if neither buffer nor view changed since the last no.
        """
        if self._buffer.is_empty or tracker.version == self._checked_version:
            return False
        if len(self._buffer) > CHANGES_BUFFERED_MAX:
            return True
        held = self._held
        for key, delta in self._buffer.items():
            if delta < 0 and held.get(key, 0) <= 0 and not tracker.is_preceded(*key):
                return True
        self._checked_version = tracker.version
        return False

    def take(self, *, is_final: bool = False) -> ProgressBatch:
        """Everything buffered as the next batch (BC1, BC2); possibly without changes.

        Args:
            is_final: the process leaves the dataflow; no batch will follow.
        """
        changes = self._buffer.drain()
        changes.sort(key=_decreases)
        batch = ProgressBatch(self._sequence, tuple(changes), is_final)
        self._sequence += 1
        return batch

    def leave(self) -> ProgressBatch:
        """The final batch of a process that leaves: everything buffered, and no more to come.

        Raises:
            ProgressError: it still holds capabilities, whose end nobody could tell later.
        """
        if self._held:
            (location, time), count = next(iter(self._held.items()))
            raise ProgressError(
                f"a process that holds {count} capabilities at {time} of location {location} "
                "cannot leave"
            )
        return self.take(is_final=True)

    def _hold(self, location: int, time: Timestamp, delta: int) -> None:
        key = (location, time)
        total = self._held.get(key, 0) + delta
        if total:
            self._held[key] = total
        else:
            self._held.pop(key, None)


def _decreases(change: Change) -> bool:
    return change[2] < 0


class ProgressReceiver:
    """Checks that every peer's batches arrive once and in order (BC1)."""

    __slots__ = ("_covered", "_expected", "_final")

    def __init__(self) -> None:
        """Start without peers: the first batch of each has number 0."""
        #: {peer: number of the next batch}.
        self._expected: dict[int, int] = {}
        #: {peer: number of the first batch that the view we joined with does not have}.
        self._covered: dict[int, int] = {}
        #: Peers that have sent their last batch.
        self._final: set[int] = set()

    def expect(self, peer: int, sequence: int) -> None:
        """Let the next batch of `peer` be number `sequence`, when joining late.

        Earlier ones may still be under way to us; they are passed over, as the view has them.
        """
        self._expected[peer] = self._covered[peer] = sequence
        self._final.discard(peer)

    def expected(self, peer: int) -> int:
        """Number of the next batch of `peer`."""
        return self._expected.get(peer, 0)

    def note_left(self, peer: int) -> None:
        """Know that `peer` has sent its final batch, when joining late."""
        self._final.add(peer)

    def has_left(self, peer: int) -> bool:
        """Whether `peer` has sent its final batch."""
        return peer in self._final

    def accept(self, peer: int, batch: ProgressBatch) -> tuple[Change, ...]:
        """Take the next batch of `peer`.

        Returns:
            Its changes, to be applied to the tracker before the next `propagate`; none for a batch
            that the view has with which we joined.

        Raises:
            ProgressError: not the next number, or a batch after the final one. Nothing has changed.
        """
        if batch.sequence < self._covered.get(peer, 0):
            return ()
        expected = self._expected.get(peer, 0)
        if batch.sequence != expected:
            raise ProgressError(
                f"peer {peer} sent progress batch {batch.sequence}, expected {expected}: "
                "progress was lost or repeated"
            )
        if peer in self._final:
            raise ProgressError(f"peer {peer} sent progress batch {expected} after its final one")
        self._expected[peer] = expected + 1
        if batch.is_final:
            self._final.add(peer)
        return batch.changes
