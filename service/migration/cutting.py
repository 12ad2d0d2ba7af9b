"""Checkpoints at S: each bin is copied when it is settled at the cut, and its later rows wait.

Flow: a Checkpoint record read by S -> [Cutting.add]; each step of S -> [Cutting.step] -> a
FrozenStore per cut -> the shell, which writes it. What settled means is S's to say (S2).

Invariants
  CU1  A bin is copied at c by the worker that owns it at c, when every row below c has been applied
       and none at or beyond c: those wait (WB1) until the copy is there.
  CU2  A bin that leaves at a later cut leaves after it was copied; one that came at an earlier cut
       is released before.
  CU3  A step copies about a portion of rows, so that this process goes on receiving; bins that were
       copied go on before the others are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.migration.waiting import WaitingBins
from service.statestore.frozen import Freezing, FrozenStore
from service.statestore.hosted import HostedStore

#: Rows copied in one step: 4 to 6 ms, of columns or of objects, which are encoded.
ROWS_PER_STEP = 1 << 16
OBJECTS_PER_STEP = 1 << 11


class _Cut:
    """One cut: what is still to be copied, and what has been."""

    def __init__(self, cut: int, bins: NDArray[np.bool_], store: HostedStore) -> None:
        self.cut = cut
        self.left = bins.copy()
        self.freezing = Freezing(store)


class Cutting:
    """The checkpoints of one vertex's S here."""

    def __init__(
        self,
        store: HostedStore,
        waiting: WaitingBins,
        inputs_reached: Callable[[int], bool],
        unsettled: Callable[[int], NDArray[np.bool_]],
    ) -> None:
        """Nothing is to be copied.

        Args:
            store: what is copied.
            waiting: keeps the rows behind a cut.
            inputs_reached: whether nothing below a cut can arrive any more.
            unsettled: bool[bins], which are not settled at a cut, given that.
        """
        self._store = store
        self._waiting = waiting
        self._inputs_reached = inputs_reached
        self._unsettled = unsettled
        self._cuts: list[_Cut] = []
        #: {cut: state as of it}, until the shell takes it.
        self.frozen: dict[int, FrozenStore] = {}
        self.rows_per_step = ROWS_PER_STEP if store.stored_bytes is not None else OBJECTS_PER_STEP

    def __bool__(self) -> bool:
        """Whether something is still to be copied."""
        return bool(self._cuts)

    def add(self, cut: int, owned: NDArray[np.bool_]) -> None:
        """Copy the bins that are `owned` here at `cut`: bool[bins]; cuts come in their order."""
        for bin_id in np.flatnonzero(owned).tolist():
            self._waiting.wait_for(bin_id, cut)
        self._cuts.append(_Cut(cut, owned, self._store))

    def step(self) -> bool:
        """Copy about a portion of what is settled (CU3); whether there is more that could be.

        Raises:
            StateError: an object cannot be encoded.
        """
        while self._cuts:
            first = self._cuts[0]
            if not self._inputs_reached(first.cut):
                return False
            ready = np.flatnonzero(first.left & ~self._unsettled(first.cut))
            counts = np.cumsum(self._store.rows_per_bin()[ready])
            # At least one bin; as many more as their rows fit into the portion.
            most = max(1, int(np.searchsorted(counts, self.rows_per_step, side="right")))
            chosen = ready[:most].tolist()
            if chosen:
                first.freezing.copy(chosen)
                first.left[chosen] = False
                self._waiting.release(chosen, first.cut)
            if first.left.any():
                return len(chosen) < len(ready)
            self.frozen[first.cut] = first.freezing.finish()
            del self._cuts[0]
        return False
