"""How bins of windows leave and come: as those of any table, but the store is told.

Flow: S, `VertexStore` -> [WindowCopier, WindowGroups] -> the table; the store of windows knows
which entries each pane has, and makes that anew for bins that come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.statestore.arena import KeyedTable
from service.statestore.groups import BinGroup, BinGroups
from service.statestore.table_copying import TableCopier
from service.statestore.timers import TimerTable


class Windows(Protocol):
    """What is asked of a store of windows."""

    vertex: str
    table: KeyedTable
    copier: TableCopier
    pending: TimerTable

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """As `HostedStore.timers`."""
        ...

    def set_timers(self, bin_id: int, timers: Sequence[bytes]) -> None:
        """As `HostedStore.set_timers`."""
        ...

    def reach(self, versions: NDArray[np.int64]) -> None:
        """As `VertexStore.reach`."""
        ...

    def may_leave(self) -> None:
        """Know that entries may be gone when panes are looked at again."""
        ...

    def came(self, bins: Sequence[int]) -> None:
        """Know the entries of bins whose rows were put into the table."""
        ...


class WindowCopier(TableCopier):
    """Copies bins of windows."""

    def __init__(self, store: Windows, next_change: Callable[[], int]) -> None:
        super().__init__(store.vertex, store.table, store.timers, store.set_timers, next_change)
        self._store = store

    def end(self, bin_id: int) -> None:
        """As `BinCopier.end`; the bin may be forgotten next."""
        super().end(bin_id)
        self._store.may_leave()


class WindowGroups(BinGroups):
    """Small bins of windows that leave and come together."""

    def __init__(self, store: Windows) -> None:
        super().__init__(
            store.vertex, store.table, store.copier, store.pending.bin_nbytes, store.reach
        )
        self._store = store

    def give_up(self, bins: Sequence[int], *, cut: int) -> bytes:
        """As `BinGroups.give_up`."""
        self._store.may_leave()
        return super().give_up(bins, cut=cut)

    def leave(self, bins: Sequence[int], copy: int, *, cut: int) -> bytes:
        """As `BinGroups.leave`."""
        self._store.may_leave()
        return super().leave(bins, copy, cut=cut)

    def install(self, group: BinGroup) -> None:
        """As `BinGroups.install`; raises StateCorrupt too if entries have ids not theirs."""
        super().install(group)
        self._store.came(group.bins)
