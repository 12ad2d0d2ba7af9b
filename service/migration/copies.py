"""Bins of one vertex that are copied to their next owner before they move (pre-copy).

Flow: accepted log -> [Copies.announced], [Copies.moved], [Copies.ended]; old owner: each step of S
-> [Copies.step] -> frames outside of time; at the cut [Copies.leave] -> chunks of what is left. New
owner: frames -> [Copies.take] -> staged in its store; the chunks complete the bin (PC4).

A copy has a number, given by the controller along the log, and ends when a move claims it, when
anything else is decided about the bin, or when all copies are called off. What arrives under a
number that has ended is ignored, so nobody has to agree on when it ended.

The copies of one number go in *rounds*: all of their bins, then what changed meanwhile, until that
is little or no longer shrinks. Then the old owner says so and rests; once a move has claimed the
copies, it goes on as often as a round is worth its turn, so that what is left at the cut is what
changed in the last moments before it.

Invariants
  CO1  A bin is copied from here only while its state is here, and has come by the move that was the
       bin's last when the copy was announced; one copy of it after the other.
  CO2  A step sends and takes about a portion, whatever is to be copied (S8).
  CO3  Nothing waits for a copy but the old owner's word that it is ready: a bin whose copy is not
       complete, or was never begun, moves all the same.
  CO4  What is staged here is of a number that this process has not read of yet, or that is neither
       ended nor adopted; all else is dropped when it is read.
  CO5  What was sent of a bin is taken before the chunks that complete it (AS1).
Source: DESIGN §7; live migration of virtual machines by pre-copy (Clark et al., NSDI 2005).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.dataflow.aside import Aside
from service.migration.copy_frames import FrameWriter, sections_of
from service.migration.handover import CopyReport
from service.migration.records import Move, PreCopy
from service.statestore.hosted import HostedStore

#: So few keys are left that another round is not worth its turn.
FEW_KEYS = 256
#: Changes have stopped shrinking when a round leaves more than this part of the one before.
SHRINKING = 0.75
#: Before a cut another round is worth its turn for so many keys of each bin. [measured: a round
#: costs a bin 40 us, both ends together, and 0.1 us a key; of 4 M keys of which 250,000 changed a
#: second 2,000 to 16,000 were left at the cut; where one round followed the move's record, 70,000]
KEYS_OF_A_BIN = 64
#: Smaller bins move whole: a copy costs more messages than they have rows.
LEAST_BYTES = 1 << 14
#: Bytes of one frame; small, as rows wait behind it on the link.
_FRAME_BYTES = 1 << 17


@dataclass(slots=True)
class _Out:
    """One bin's copy from here."""

    number: int
    target: int
    #: Cut at which the bin came here to be copied; 0: it was here from the beginning.
    came: int
    #: Cut of the move that claimed it.
    cut: int | None = None
    begun: bool = False
    #: The round that tells it, or told it last.
    round: int = 1


@dataclass(slots=True)
class _Group:
    """The bins of one number that are copied from here."""

    bins: set[int]
    #: Bins that this round has not told whole; some may have gone since.
    pending: deque[int]
    targets: frozenset[int]
    round: int = 1
    #: Keys that the round told; the first one tells all.
    last: float = float("inf")
    resting: bool = False
    reported: bool = False
    #: Whether a move has claimed its copies.
    claimed: bool = False


@dataclass(slots=True)
class _In:
    """Numbers of copies that are to come here."""

    #: By bin: not claimed yet.
    open: dict[int, int] = field(default_factory=dict)
    #: By cut and bin.
    claimed: dict[tuple[int, int], int] = field(default_factory=dict)


class Copies:
    """Copies of one vertex's bins from and to this process."""

    def __init__(
        self, store: HostedStore, installed: NDArray[np.bool_], peer: int, aside: Aside
    ) -> None:
        """Copy nothing.

        Args:
            store: what is copied, and where copies are staged.
            installed: bool[bins], whose state is here; to be read.
            peer: this process.
            aside: to and from S in other processes.
        """
        self._store = store
        self._copier = store.copier
        self._installed = installed
        self._peer = peer
        self._aside = aside
        #: By bin, the older one first (CO1).
        self._outs: dict[int, deque[_Out]] = {}
        #: By bin: the cut of its last move to this process, as read, and as arrived.
        self._coming: dict[int, int] = {}
        self._came: dict[int, int] = {}
        self._groups: dict[int, _Group] = {}
        self._in = _In()
        self._announced = 0
        self._called_off = False
        #: Another round is begun for more than so many keys.
        self.few_keys = FEW_KEYS
        #: And before a cut for more than so many of each bin.
        self.keys_of_a_bin = KEYS_OF_A_BIN
        #: Bins of fewer bytes are not copied (CO3).
        self.least_bytes = LEAST_BYTES
        self.bytes_sent = 0
        #: Bins that left as what was left of a copy.
        self.bins_completed = 0
        #: Reports not yet taken by the shell.
        self.reports: list[CopyReport] = []

    # What the log says --------------------------------------------------------------------------

    def announced(self, record: PreCopy, owners: Sequence[int] | NDArray[np.int32]) -> None:
        """Begin copies; `owners` are those after every move read so far."""
        self._announced = record.number
        leaving, owned = set(), False
        for bin_id, target in record.moves:
            self._supersede(bin_id)
            if int(owners[bin_id]) == self._peer:
                owned = True
                if self._installed[bin_id] and self._store.nbytes(bin_id) < self.least_bytes:
                    continue
                out = _Out(record.number, target, self._coming.get(bin_id, 0))
                self._outs.setdefault(bin_id, deque()).append(out)
                leaving.add(bin_id)
            elif target == self._peer:
                self._in.open[bin_id] = record.number
        if leaving:
            targets = frozenset(target for bin_id, target in record.moves if bin_id in leaving)
            self._groups[record.number] = _Group(leaving, deque(sorted(leaving)), targets)
        elif owned:
            self.reports.append(CopyReport(self._store.vertex, record.number, 0))

    def moved(self, move: Move) -> None:
        """Let a move claim the copies it names; every other copy of its bins has ended."""
        for bin_id, target in move.moves:
            if target == self._peer and self._in.open.get(bin_id, 0) == move.precopy != 0:
                self._in.claimed[move.at, bin_id] = self._in.open.pop(bin_id)
            out = self._unclaimed(bin_id)
            if out is not None and (out.number, out.target) == (move.precopy, target):
                out.cut = move.at
            self._supersede(bin_id)
            if target == self._peer:
                self._coming[bin_id] = move.at
        group = self._groups.get(move.precopy)
        if group is not None:
            group.claimed = True

    def ended(self, *, for_good: bool = False) -> None:
        """End all copies that no move has claimed; `for_good`: none will be announced again."""
        self._called_off = self._called_off or for_good
        for bin_id in [*self._outs, *self._in.open]:
            self._supersede(bin_id)

    def _unclaimed(self, bin_id: int) -> _Out | None:
        outs = self._outs.get(bin_id)
        return outs[-1] if outs and outs[-1].cut is None else None

    def _supersede(self, bin_id: int) -> None:
        """End the bin's copy that is not claimed, if there is one."""
        number = self._in.open.pop(bin_id, None)
        if number is not None and self._copier.staged(bin_id) == number:
            self._copier.drop(bin_id)
        out = self._unclaimed(bin_id)
        if out is None:
            return
        if out.begun:
            self._copier.end(bin_id)
        self._outs[bin_id].pop()
        self._gone(bin_id, out.number)

    def _gone(self, bin_id: int, number: int) -> None:
        """Copy the bin no longer under this number."""
        if not self._outs[bin_id]:
            del self._outs[bin_id]
        group = self._groups[number]
        group.bins.discard(bin_id)
        if not group.bins:
            del self._groups[number]

    # At the old owner ---------------------------------------------------------------------------

    def step(self, portion: int) -> bool:
        """Send about `portion` bytes while there is room; whether the portion ended it (CO2)."""
        if not self._groups:
            return False
        frames = FrameWriter(self._aside, _FRAME_BYTES)
        left, spent = portion, False
        begins = any(not group.claimed and not group.resting for group in self._groups.values())
        for number in sorted(self._groups):
            group = self._groups[number]
            if group.claimed and group.resting and self._copier.changed_keys > self._few(group):
                self._turn(number, group)
            # What changes all the time does not keep the next wave's copies from getting done.
            most = -(-left // 2) if group.claimed and begins else left
            while not group.resting and most > 0:
                sent = self._round(number, group, frames, most)
                most, left = most - sent, left - sent
                if group.pending:
                    break
                self._turn(number, group)
            spent = spent or most <= 0
            if left <= 0:
                break
        frames.flush()
        self.bytes_sent += frames.nbytes
        return spent

    def _round(self, number: int, group: _Group, frames: FrameWriter, most: int) -> int:
        """Tell what is pending in this round, of about `most` bytes; how many there were."""
        sent = 0
        full: set[int] = set()
        left = len(group.pending)
        while left and sent < most and len(full) < len(group.targets):
            left -= 1
            bin_id = group.pending.popleft()
            if bin_id not in group.bins:
                continue
            out = self._outs[bin_id][0]
            if out.number != number or not self._may_begin(bin_id, out):
                group.pending.append(bin_id)
                continue
            self._enter(bin_id, out, group.round)
            while sent < most and frames.room(out.target):
                piece = self._copier.next_piece(bin_id, min(most - sent, _FRAME_BYTES))
                if not piece:
                    break
                frames.add(out.target, number, bin_id, piece)
                sent += len(piece)
            else:
                if sent < most:
                    full.add(out.target)
                    group.pending.append(bin_id)
                else:
                    group.pending.appendleft(bin_id)
        return sent

    def _enter(self, bin_id: int, out: _Out, number: int) -> None:
        """Let the bin be in round `number` of its copy."""
        if not out.begun:
            out.begun = True
            self._copier.begin(bin_id)
        elif out.round < number:
            self._copier.next_round(bin_id)
        out.round = number

    def _may_begin(self, bin_id: int, out: _Out) -> bool:
        """CO1."""
        return bool(self._installed[bin_id]) and self._came.get(bin_id, 0) == out.came

    def _turn(self, number: int, group: _Group) -> None:
        """Rest or begin another round.

        It rests if little is left; before a move claims the copies, also if it no longer shrinks.
        """
        changed = self._copier.changed_in(group.bins)
        shrinks = changed <= group.last * SHRINKING
        group.resting = changed <= self._few(group) or not (group.claimed or shrinks)
        if group.resting:
            if not group.reported:
                group.reported = True
                self.reports.append(CopyReport(self._store.vertex, number, changed))
            return
        group.last = changed
        group.round += 1
        group.pending = deque(sorted(group.bins))

    def _few(self, group: _Group) -> int:
        """So many changed keys are not worth another round."""
        before_cut = self.keys_of_a_bin * len(group.bins) if group.claimed else 0
        return max(self.few_keys, before_cut)

    def is_copied(self, bin_id: int) -> bool:
        """Whether a copy of the bin from here was announced and has not ended."""
        return bin_id in self._outs

    def leaves(self, bin_id: int, cut: int) -> int:
        """Number of the copy that a bin which moves at `cut` leaves by; 0 if it leaves whole."""
        outs = self._outs.get(bin_id)
        return outs[0].number if outs and outs[0].cut == cut and outs[0].begun else 0

    def leave(self, bin_id: int, cut: int) -> Iterator[bytes] | None:
        """Chunks of what is left of a bin that moves at `cut`; None if it was not copied (CO3)."""
        number = self.left(bin_id, cut)
        return self._copier.leave(bin_id, number, cut) if number else None

    def left(self, bin_id: int, cut: int) -> int:
        """Note that a bin leaves that moves at `cut`; returns what `leaves` said."""
        number = self.leaves(bin_id, cut)
        outs = self._outs.get(bin_id)
        if outs and outs[0].cut == cut:
            self._gone(bin_id, outs.popleft().number)
            self.bins_completed += number > 0
        return number

    # At the new owner ---------------------------------------------------------------------------

    @property
    def coming(self) -> int:
        """Bins whose copies are to come here, and of which nothing has come. Cost: O(these)."""
        return sum(self._copier.staged(bin_id) is None for bin_id in self._in.open)

    def take(self, portion: int) -> bool:
        """Stage about `portion` bytes of what has come; whether there is more (CO2)."""
        taken = 0
        while taken < portion and (body := self._aside.pull()) is not None:
            taken += len(body)
            for number, bin_id, piece in sections_of(body):
                if self._is_live(bin_id, number):
                    self._copier.stage(bin_id, number, piece)
        return bool(self._aside.queue)

    def take_before_chunks(self) -> None:
        """Stage all that has come, if a bin may be completed by the chunks behind it (CO5)."""
        if self._in.claimed:
            while self.take(1 << 62):
                pass

    def arrived(self, bin_id: int, cut: int) -> None:
        """Note that a bin that moved at `cut` is here."""
        self._in.claimed.pop((cut, bin_id), None)
        self._came[bin_id] = cut

    def _is_live(self, bin_id: int, number: int) -> bool:
        """CO4."""
        if number > self._announced:
            return not self._called_off
        if self._in.open.get(bin_id) == number:
            return True
        return any(
            claimed == number for (_, each), claimed in self._in.claimed.items() if each == bin_id
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is copied from here or staged here."""
        return not self._groups and not self._copier.staged_bins
