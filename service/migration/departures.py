"""Bins that leave S: extracted when settled, sent in portions, the earliest cut first.

Flow: a move read by S -> [Departures.add]; each step of S -> [Departures.step] -> chunks on the
state output. What settled means is S's to say (S2).

Beside the bins, their new owners are told once everything that was emitted here below the cut has
passed what lies below S in this process: till then it could be overtaken.

Invariants
  DE1  Bins leave in the order of their cuts; of one cut, each as soon as it is settled.
  DE2  A right at the cut is held until the last chunk of the cut is sent and the new owners are
       told (S3): at a state frontier beyond the cut, what its old owners emitted has passed.
  DE3  A step sends about a portion and says whether there is more that could be sent (S8).
  DE4  Small bins that are settled leave together, if their store knows how; so do bins of one
       copy of which little is left.
  DE5  New owners are told only when every bin of the cut has left or is settled, so that nothing
       more below it will be emitted for them; the chunks need not all be out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.dataflow.operator import Capability, OutputPort
from service.migration.copies import Copies
from service.migration.handover import PASSED, Departure
from service.statestore.groups import BinGroups
from service.statestore.hosted import HostedStore


class Departures:
    """What leaves one vertex's S here."""

    def __init__(
        self,
        store: HostedStore,
        copies: Copies,
        installed: NDArray[np.bool_],
        output: OutputPort,
        inputs_reached: Callable[[int], bool],
        unsettled: Callable[[int], NDArray[np.bool_]],
        passed: Callable[[int], bool],
    ) -> None:
        """Nothing leaves.

        Args:
            store: where bins are taken from.
            copies: of a bin that was copied before, only what is left leaves.
            installed: bool[bins], whose state is here; cleared for what is taken.
            output: the state output.
            inputs_reached: whether nothing below a cut can arrive any more.
            unsettled: bool[bins], which of them may not leave at a cut, given that.
            passed: whether what was emitted here below a cut has passed what lies below in this
                process; if not, S is stepped again when that may have changed.
        """
        self._store = store
        self._copies = copies
        self._installed = installed
        self._output = output
        self._inputs_reached = inputs_reached
        self._unsettled = unsettled
        self._passed = passed
        self._departures: dict[int, Departure] = {}

    def __bool__(self) -> bool:
        """Whether something is to leave."""
        return bool(self._departures)

    def add(self, cut: int, right: Capability, bins: list[tuple[int, int]]) -> None:
        """Let (bin, target) pairs leave at `cut`; keeps `right` (DE2)."""
        self._departures[cut] = Departure(right, bins, sorted({target for _, target in bins}))

    def step(self, portion: int, group: int) -> bool:
        """Send about `portion` bytes while credit lasts; whether the portion ended it (DE3).

        Bins of at most `group` bytes leave together (DE4).
        """
        left = portion
        while self._departures:
            cut = min(self._departures)
            if not (self._inputs_reached(cut) and self._output.ready()):
                return False
            departure = self._departures[cut]
            unsettled = self._unsettled(cut)
            self._tell(departure, cut, unsettled)
            waiting: list[tuple[int, int]] = []
            while departure.bins or departure.chunks is not None:
                if left <= 0 or not self._output.ready():
                    departure.bins += waiting
                    return left <= 0
                if departure.chunks is None:
                    moved, target = departure.bins.pop()
                    if unsettled[moved]:
                        waiting.append((moved, target))
                        continue
                    together = self._together(departure, moved, target, cut, unsettled, group)
                    self._begin(departure, together, target, cut)
                assert departure.chunks is not None, "a bin was begun"
                chunk = next(departure.chunks, None)
                if chunk is None:
                    departure.chunks = None
                    continue
                self._output.send(departure.right, chunk, departure.target)
                left -= len(chunk)
            departure.bins += waiting
            if departure.bins or departure.untold:
                return False
            departure.right.drop()
            del self._departures[cut]
        return False

    def _tell(self, departure: Departure, cut: int, unsettled: NDArray[np.bool_]) -> None:
        """Tell the new owners that nothing emitted here below the cut is under way (DE5)."""
        if not departure.untold or any(unsettled[moved] for moved, _ in departure.bins):
            return
        if self._passed(cut):
            for target in departure.untold:
                self._output.send(departure.right, PASSED, target)
            departure.untold.clear()

    def _together(
        self,
        departure: Departure,
        first: int,
        target: int,
        cut: int,
        unsettled: NDArray[np.bool_],
        left: float,
    ) -> list[int]:
        """`first`, and the bins after it that leave with it, taken off (DE4)."""
        together = [first]
        groups = self._store.groups
        copy = self._copies.leaves(first, cut)
        if groups is None or (left := left - self._size(groups, first, copy)) < 0:
            return together
        while departure.bins:
            moved, to = departure.bins[-1]
            if (
                to != target
                or unsettled[moved]
                or self._copies.leaves(moved, cut) != copy
                or (left := left - self._size(groups, moved, copy)) < 0
            ):
                break
            together.append(moved)
            departure.bins.pop()
        return together

    def _size(self, groups: BinGroups, bin_id: int, copy: int) -> float:
        """Bytes of the bin among others of its copy; without end, if it leaves on its own."""
        if copy:
            size = groups.nbytes_left(bin_id)
        else:
            size = None if self._copies.is_copied(bin_id) else groups.nbytes(bin_id)
        return float("inf") if size is None else size

    def _begin(self, departure: Departure, moved: list[int], target: int, cut: int) -> None:
        """Take one bin, or several together, out of the store."""
        # Nothing changes them from here on: what is not below the cut belongs to their new owner.
        if len(moved) > 1:
            groups = self._store.groups
            assert groups is not None, "DE4"
            copies = {self._copies.left(each, cut) for each in moved}
            (copy,) = copies
            departure.chunks = iter(
                (groups.leave(moved, copy, cut=cut) if copy else groups.give_up(moved, cut=cut),)
            )
        else:
            left = self._copies.leave(moved[0], cut)
            departure.chunks = self._store.give_up(moved[0], cut=cut) if left is None else left
        departure.target = target
        self._installed[moved] = False
