"""Bins that come to S: installed when whole, released when the gate is open, reported by cut.

Flow: a move read by S -> [Arrivals.add]; chunks of the state input -> [Arrivals.receive]; each step
of S -> [Arrivals.release] -> the rows that waited may go.

Invariants
  AR1  A chunk belongs to a bin of a move at its cut that is not installed yet, or ends the
       generation.
  AR2  Rows of an arriving bin wait from the cut on until it is installed, all old owners of bins of
       the cut have said that what they emitted has passed, and the gate is open (S4).
  AR3  Bins of a cut are released together, the earliest cut first, at least an eighth of them at
       once; the cut is reported with the last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.errors import ProtocolViolation
from service.migration.copies import Copies
from service.migration.handover import Arrival, CutReport
from service.migration.waiting import WaitingBins
from service.statestore.chunk import bin_of_chunk
from service.statestore.groups import is_group
from service.statestore.hosted import HostedStore

#: Bins of a cut that have arrived are released together, at least this part of them at once: each
#: release goes through all rows that wait.
_RELEASE_PARTS = 8


class Arrivals:
    """What comes to one vertex's S here."""

    def __init__(
        self,
        store: HostedStore,
        copies: Copies,
        installed: NDArray[np.bool_],
        waiting: WaitingBins,
        gate_open: Callable[[int], bool],
    ) -> None:
        """Nothing comes.

        Args:
            store: where bins are installed.
            copies: told of each bin that has come.
            installed: bool[bins], whose state is here; set for what is installed.
            waiting: rows that wait for bins.
            gate_open: whether everything below a cut has arrived behind the exchanges below.
        """
        self._store = store
        self._copies = copies
        self._installed = installed
        self._waiting = waiting
        self._gate_open = gate_open
        self._arrivals: dict[int, Arrival] = {}
        #: Reports not yet taken by the shell.
        self.reports: list[CutReport] = []

    def __bool__(self) -> bool:
        """Whether something is to come."""
        return bool(self._arrivals)

    def add(self, cut: int, bins: set[int], owners: set[int]) -> None:
        """Expect these bins at `cut` from their `owners`; rows wait from there on (AR2)."""
        for bin_id in bins:
            self._waiting.wait_for(bin_id, cut)
        self._arrivals[cut] = Arrival(cut, len(bins), bins, owners)

    def passed(self, cut: int, owner: int | None) -> None:
        """What an old owner emitted below `cut` has passed all that lies below S in its process.

        Raises:
            ProtocolViolation: it owned no bin of the cut, or says so twice.
        """
        arrival = self._arrivals.get(cut)
        if arrival is None or owner is None or owner not in arrival.passing:
            raise ProtocolViolation(
                f"peer {owner} says that what it emitted below {cut} has passed; no bin that comes "
                "then waits for that"
            )
        arrival.passing.discard(owner)

    def receive(self, cut: int, chunk: bytes) -> None:
        """Take one chunk of an arriving bin, or of several; install what is whole.

        Raises:
            ProtocolViolation: no move names the bin at `cut` (AR1).
            StateCorrupt, FormatMismatch: what came is not the bin's state.
        """
        arrival = self._arrivals.get(cut)
        if is_group(chunk):
            self._receive_group(arrival, cut, chunk)
            return
        moved = bin_of_chunk(chunk)
        if arrival is None or moved not in arrival.missing:
            raise ProtocolViolation(
                f"a chunk of bin {moved} at {cut} arrived, but no move names it"
            )
        assembler = arrival.assemblers.get(moved)
        if assembler is None:
            assembler = arrival.assemblers[moved] = self._store.assembler(moved)
        arrival.bytes += len(chunk)
        if assembler.feed(chunk):
            self._store.install(moved, assembler)
            del arrival.assemblers[moved]
            self._have_come(arrival, [moved])

    def _receive_group(self, arrival: Arrival | None, cut: int, chunk: bytes) -> None:
        groups = self._store.groups
        if groups is None:
            raise ProtocolViolation(
                f"state of several bins of {self._store.vertex!r} came together, which this "
                "process keeps another way; do all processes run the same flow and settings?"
            )
        group = groups.read(chunk)
        if arrival is None or not arrival.missing.issuperset(group.bins):
            raise ProtocolViolation(
                f"state of bins {group.bins} at {cut} arrived, but no move names all of them"
            )
        arrival.bytes += len(chunk)
        groups.install(group)
        self._have_come(arrival, group.bins)

    def _have_come(self, arrival: Arrival, bins: list[int]) -> None:
        for moved in bins:
            self._copies.arrived(moved, arrival.cut)
            arrival.rows += self._store.rows(moved)
        arrival.missing.difference_update(bins)
        arrival.installed += bins
        self._installed[bins] = True

    def release(self) -> None:
        """Let arrived bins' rows go once the gate is open (AR3)."""
        for cut in sorted(self._arrivals):
            arrival = self._arrivals[cut]
            if arrival.passing or not self._gate_open(cut):
                return
            if arrival.missing and len(arrival.installed) * _RELEASE_PARTS < arrival.bins:
                continue
            self._waiting.release(arrival.installed, cut)
            arrival.installed.clear()
            if not arrival.missing:
                self._report(arrival)
                del self._arrivals[cut]

    def _report(self, arrival: Arrival) -> None:
        vertex = self._store.vertex
        self.reports.append(
            CutReport(vertex, arrival.cut, arrival.bins, arrival.bytes, arrival.rows)
        )
