"""Owner of each bin, as a function of the epoch.

Flow: accepted log -> [RoutingTable] -> F picks the target of each row; S learns which bins leave
and arrive at a cut. Pure: no I/O, no clock. Every process holds an equal copy; equality is RT3.

Invariants
  RT1  For every bin and every epoch >= `since` there is exactly one owner.
  RT2  Cuts strictly increase; a bin moves at most once per cut and never to its own owner.
  RT3  Two tables that have seen the same log answer alike for every epoch below the horizon; at or
       beyond it they refuse, as the answer could still change.
Cost: `owners_at` O(log cuts), O(1) while epochs stay in one interval; `apply` O(bins); memory
O(bins x cuts not yet compacted). A plan keeps few cuts alive at once, so whole arrays are cheaper
than per-bin histories: F reads one array per batch.

Source: Hoffmann et al., "Megaphone: Latency-conscious state migration for distributed streaming
dataflows", VLDB 2019, section 3 (the configuration function).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import ProtocolViolation
from service.migration.records import MAX_EPOCH, Generation, Move


class BinMove(NamedTuple):
    """From the cut on, `bin` belongs to worker `target`; before it, to `source`."""

    bin: int
    source: int
    target: int


class RoutingTable:
    """The bin -> worker table of a generation."""

    def __init__(
        self, owners: Sequence[int] | NDArray[np.int32], workers: int, *, since: int = 0
    ) -> None:
        """Begin with `owners` (one worker ordinal per bin) from epoch `since` on.

        Args:
            owners: worker ordinal of each bin, n >= 1; copied.
            workers: how many there are.
            since: first epoch that can be asked for.

        Raises:
            ProtocolViolation: an owner is no worker, or there is no bin.
        """
        first = _frozen(np.array(owners, dtype=np.int32))
        if first.size == 0 or first.min() < 0 or first.max() >= workers:
            raise ProtocolViolation(f"owner table does not fit {workers} workers")
        self.workers = workers
        #: Nothing is known below it (RT1).
        self.since = since
        #: Refuses at or beyond it (RT3). Writer: advance(); without one, all that will be is known.
        self.horizon = MAX_EPOCH
        self._promised = 0
        #: Start of each interval, ascending; _starts[0] <= since (RT2).
        self._starts: list[int] = [since]
        #: Owner of each bin in the interval of the same index; read-only int32[bins].
        self._owners: list[NDArray[np.int32]] = [first]
        #: {cut: its moves}, for cuts >= since.
        self._moves: dict[int, tuple[BinMove, ...]] = {}
        #: {cut at which nothing moves: owner of each bin there}.
        self._marked: dict[int, NDArray[np.int32]] = {}
        #: Interval that answered last: [low, high) and its owners.
        self._low, self._high, self._hit = since, MAX_EPOCH, first

    @classmethod
    def of(cls, generation: Generation) -> RoutingTable:
        """The table a generation begins with, its horizon already noted."""
        table = cls(generation.bin_owners, generation.workers, since=generation.first_epoch)
        table.advance(generation.horizon)
        return table

    @property
    def bins(self) -> int:
        """Number of bins."""
        return int(self._owners[0].size)

    @property
    def latest(self) -> NDArray[np.int32]:
        """Owner of each bin after every move accepted so far; read-only int32[bins].

        For planning only: it may lie beyond the horizon, so F must not route by it.
        """
        return self._owners[-1]

    @property
    def last_cut(self) -> int:
        """The newest cut known, or `since` if there is none above it."""
        return max(self.since, self._starts[-1])

    def advance(self, horizon: int) -> None:
        """Answer below `horizon` from now on.

        Raises:
            ProtocolViolation: it would go back.
        """
        if horizon < self._promised:
            raise ProtocolViolation(f"RT3: horizon {horizon} after {self._promised}")
        self.horizon = self._promised = horizon

    def apply(self, move: Move) -> tuple[BinMove, ...]:
        """Take in an accepted wave.

        Returns:
            The moves of the wave with the owners they leave.

        Raises:
            ProtocolViolation: the cut is not above the horizon and every earlier cut, a bin or
                worker does not exist, or a bin stays where it is (RT2); nothing has changed.
        """
        if move.at <= max(self._promised, self.last_cut):
            raise ProtocolViolation(f"RT2: cut {move.at} is not above what is already known")
        before = self._owners[-1]
        moves: list[BinMove] = []
        for bin_, worker in move.moves:
            if bin_ >= before.size or worker >= self.workers:
                raise ProtocolViolation(f"RT1: no bin {bin_} or no worker {worker}")
            moves.append(BinMove(bin_, int(before[bin_]), worker))
        if len({m.bin for m in moves}) != len(moves) or any(m.source == m.target for m in moves):
            raise ProtocolViolation(f"RT2: cut {move.at} moves a bin twice or not at all")
        after = before.copy()
        for m in moves:
            after[m.bin] = m.target
        self._starts.append(move.at)
        self._owners.append(_frozen(after))
        self._moves[move.at] = tuple(moves)
        self._high = min(self._high, move.at)
        return self._moves[move.at]

    def mark(self, cut: int) -> None:
        """Take in a cut at which nothing moves: no interval of owners extends over it.

        Raises:
            ProtocolViolation: it is not above the horizon and every earlier cut (RT2).
        """
        if cut <= max(self._promised, self.last_cut):
            raise ProtocolViolation(f"RT2: cut {cut} is not above what is already known")
        self._starts.append(cut)
        self._owners.append(self._owners[-1])
        self._moves[cut] = ()
        self._marked[cut] = self._owners[-1]
        self._high = min(self._high, cut)

    def marked(self, cut: int) -> NDArray[np.int32]:
        """Owner of each bin at a cut that was marked and not compacted; beyond the horizon, too."""
        return self._marked[cut]

    def owners_at(self, epoch: int) -> NDArray[np.int32]:
        """Owner of each bin at `epoch`; read-only int32[bins].

        The same array object is returned for every epoch of one interval between cuts, so a caller
        may keep what it derived from it as long as the object is the same.

        Raises:
            ProtocolViolation: `epoch` is below `since` or not below the horizon (RT3).
        """
        self._check(epoch)
        if not self._low <= epoch < self._high:
            index = bisect_right(self._starts, epoch) - 1
            self._low, self._hit = self._starts[index], self._owners[index]
            self._high = self._starts[index + 1] if index + 1 < len(self._starts) else MAX_EPOCH
        return self._hit

    def owner(self, bin_: int, epoch: int) -> int:
        """Owner of one bin at `epoch`; raises as `owners_at`."""
        return int(self.owners_at(epoch)[bin_])

    def interval_start(self, epoch: int) -> int:
        """The last cut at or before `epoch`, or where the table begins; raises as `owners_at`.

        Two epochs with the same answer have the same owners and no cut between them.
        """
        self._check(epoch)
        return self._starts[bisect_right(self._starts, epoch) - 1]

    def next_cut(self, epoch: int) -> int:
        """The first cut above `epoch`, or MAX_EPOCH; it may lie beyond the horizon."""
        index = bisect_right(self._starts, epoch)
        return self._starts[index] if index < len(self._starts) else MAX_EPOCH

    def cuts_after(self, epoch: int) -> tuple[int, ...]:
        """Every cut above `epoch`, ascending; some may lie beyond the horizon."""
        cuts = self._starts[1:] if self._starts[0] not in self._moves else self._starts
        return tuple(cuts[bisect_right(cuts, epoch) :])

    def moves_at(self, cut: int) -> tuple[BinMove, ...]:
        """The moves of `cut`, in the order of the wave; empty if there is no such cut.

        Raises:
            ProtocolViolation: `cut` is below `since`, so its moves may be forgotten.
        """
        if cut < self.since:
            raise ProtocolViolation(f"RT1: {cut} lies below {self.since}")
        return self._moves.get(cut, ())

    def compact(self, epoch: int) -> None:
        """Forget what is only needed below `epoch`; answers at or above it stay the same.

        The moves of a cut at `epoch` itself are kept. Going back is harmless and does nothing.

        Raises:
            ProtocolViolation: `epoch` lies beyond the horizon.
        """
        if epoch > self.horizon:
            raise ProtocolViolation(f"RT3: compaction to {epoch} beyond horizon {self.horizon}")
        if epoch <= self.since:
            return
        index = bisect_right(self._starts, epoch) - 1
        for cut in [cut for cut in self._moves if cut < epoch]:
            del self._moves[cut]
            self._marked.pop(cut, None)
        del self._starts[:index]
        del self._owners[:index]
        self.since = epoch

    def _check(self, epoch: int) -> None:
        if not self.since <= epoch < self.horizon:
            raise ProtocolViolation(f"RT3: epoch {epoch} is not in [{self.since}, {self.horizon})")


def _frozen(owners: NDArray[np.int32]) -> NDArray[np.int32]:
    owners.flags.writeable = False
    return owners
