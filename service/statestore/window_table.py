"""Entries of windows in an arena: one for each key and pane, in the bin of the key.

Flow: a batch's identities -> [WindowTable.touch] -> state of the entries -> a program folds ->
`KeyedTable.store`; a pane that is read: [ids_of] -> [read]; one that is forgotten: [drop].

The arena finds an entry under an id: the bin's bits are those of the key's hash, the others a hash
of the whole identity. Whose an entry is stands in its first state columns and is compared in full.
Two identities with one id are told apart by salts: the later one is given the id of the next salt.

Which ids a pane has is kept beside the arena and made anew where bins come: state that moves or is
stored has nothing of it.

Invariants
  WT1  Every entry is found under the id of one salt, at most `self.salts`, and its identity is
       stored in it: two identities never share an entry.
  WT2  `ids_of` gives the ids of a pane's entries here, once each.
  WT3  Rows of a bin that is copied here and not owned yet are entries of no pane.
Cost: as the arena, and 20 ns a row for ids and comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore import _window_kernels as kernels
from service.statestore._layout import FIRST_COLUMN, NOTHING
from service.statestore.arena import Int64s, KeyedTable, Touched
from service.statestore.columns import ColumnSpec

#: The first state columns: whose an entry is.
OF_KEY = ColumnSpec("window.key", "int64", 0)
OF_PANE = ColumnSpec("window.pane", "int64", 0)
OF_START = ColumnSpec("window.start", "int64", 0)
_KEY, _PANE = 0, 1
#: So many identities with one id there are in no table that fits into a machine.
_SALTS_MAX = 1 << 10


class WindowTable:
    """Entries in `table`, whose first columns are an identity of `lines` lines."""

    def __init__(self, table: KeyedTable, lines: int, *, hash_bits: int = 64) -> None:
        """Find entries in an empty table; `hash_bits` of ids are used, fewer in tests."""
        self.table = table
        self.lines = lines
        self.hash_bits = hash_bits
        #: The greatest salt of an entry (WT1).
        self.salts = 0
        self._panes: dict[int, list[Int64s]] = {}
        #: Panes that may list an id twice, or one that has left.
        self._doubtful: set[int] = set()
        #: Which ids are of bins that are copied here and not owned (WT3); None: none is.
        self.foreign: Callable[[Int64s], NDArray[np.bool_] | None] = lambda _: None

    @property
    def panes(self) -> Iterable[int]:
        """Panes that may have entries."""
        return self._panes.keys()

    def __len__(self) -> int:
        """How many panes may have entries."""
        return len(self._panes)

    # Rows ---------------------------------------------------------------------------------------

    def touch(self, identity: Int64s) -> tuple[Touched, Int64s]:
        """Find or insert the entry of every row; see `KeyedTable.touch`.

        Returns:
            The entries, and the lines of their state behind the identity.

        Raises:
            StateError: the reserved address space is used up.
        """
        if not self.table.row_count:
            self.salts = 0
        ids = self._ids(identity, 0)
        if self.salts:
            ids = self._salted(identity, ids)
        touched = self.table.touch(ids)
        if self._claim(touched, identity):
            self.undo(touched)
            touched = self.table.touch(self._salted(identity, ids))
            assert not self._claim(touched, identity), "WT1"
        return touched, touched.state[self.lines :]

    def _claim(self, touched: Touched, identity: Int64s) -> int:
        """How many rows met an entry that is another's; new entries are now theirs."""
        count = len(touched.keys)
        wrong: int = kernels.claim(touched.positions, touched.new, identity, count, touched.lines)
        return wrong

    def undo(self, touched: Touched) -> None:
        """Leave the table as it was before `touch`."""
        self.table.restore(touched)
        self.table.remove(touched.keys[touched.new])

    def enter(self, touched: Touched) -> None:
        """List the entries that are new in `touched`, once it has been stored."""
        if len(touched.new):
            self._list(touched.keys[touched.new], touched.state[_PANE, touched.new])

    def find(self, identity: Int64s) -> Int64s:
        """The id of the entry of each identity, as `lookup` of the table finds them.

        Where there is none, the id is one that the table does not have, or another's: compare.
        """
        ids = self._ids(identity, 0)
        return self._salted(identity, ids) if self.salts else ids

    def _ids(self, identity: Int64s, salt: int) -> Int64s:
        ids = np.empty(identity.shape[1], dtype=np.int64)
        kernels.identify(identity, self.table.bin_bits, salt, self.hash_bits, ids)
        return ids

    def _salted(self, identity: Int64s, first: Int64s) -> Int64s:
        """The ids of identities of which some share an id with others."""
        distinct, where = np.unique(identity, axis=1, return_inverse=True)
        distinct = np.ascontiguousarray(distinct)
        ids = np.empty(distinct.shape[1], dtype=np.int64)
        waiting = np.arange(distinct.shape[1])
        for salt in range(self.salts + 1):
            found = self._ids(np.ascontiguousarray(distinct[:, waiting]), salt)
            same = self._are(found, distinct[:, waiting])
            ids[waiting[same]] = found[same]
            waiting = waiting[~same]
        salt = 0
        given = np.empty(0, dtype=np.int64)
        while len(waiting):
            assert salt < _SALTS_MAX, "ids are spread over all numbers of a bin"
            found = self._ids(np.ascontiguousarray(distinct[:, waiting]), salt)
            _, earliest = np.unique(found, return_index=True)
            free = np.zeros(len(found), dtype=np.bool_)
            free[earliest] = True
            free &= (self.table.lookup(found) == NOTHING) & ~np.isin(found, given)
            ids[waiting[free]] = found[free]
            given = np.concatenate((given, found[free]))
            waiting = waiting[~free]
            self.salts = max(self.salts, salt)
            salt += 1
        spread: Int64s = ids[where.reshape(-1)]
        return spread

    def _are(self, ids: Int64s, identity: Int64s) -> NDArray[np.bool_]:
        """Whether the entry under each id is there and has the identity."""
        lines, there = self.read(ids)
        same = np.zeros(len(ids), dtype=np.bool_)
        same[there] = (lines[: self.lines] == identity[:, there]).all(axis=0)
        return same

    # Panes --------------------------------------------------------------------------------------

    def ids_of(self, pane: int) -> Int64s:
        """The ids of a pane's entries (WT2)."""
        listed = self._panes.get(pane)
        if listed is None:
            return np.empty(0, dtype=np.int64)
        ids = listed[0] if len(listed) == 1 else np.concatenate(listed)
        if pane in self._doubtful:
            self._doubtful.discard(pane)
            ids = np.unique(ids)
            here = self.table.lookup(ids) != NOTHING
            if (foreign := self.foreign(ids)) is not None:
                here &= ~foreign
            ids = ids[here]
        if len(listed) > 1 or ids is not listed[0]:
            self._panes[pane] = [ids]
        return ids

    def read(self, ids: Int64s) -> tuple[Int64s, NDArray[np.int64]]:
        """Lines of identity and state of those of `ids` that are here, and which these are."""
        slots = self.table.lookup(ids)
        there = np.flatnonzero(slots != NOTHING)
        if len(there) < len(slots):
            slots = slots[there]
        cells, _ = self.table.slots()
        lines = np.empty((cells.shape[1] - FIRST_COLUMN, len(slots)), dtype=np.int64)
        kernels.gather(cells, slots, lines)
        return lines, there

    def drop(self, pane: int, of: Callable[[Int64s], NDArray[np.bool_]] | None = None) -> None:
        """Forget the entries of a pane; only those of ids that `of` tells."""
        ids = self.ids_of(pane)
        goes = None if of is None else of(ids)
        if goes is None or goes.all():
            del self._panes[pane]
        else:
            self._panes[pane] = [ids[~goes]]
            ids = ids[goes]
        self._remove(ids)

    def ending(self, first: int, of: Callable[[Int64s], NDArray[np.bool_]] | None) -> None:
        """Know that all panes before `first` are dropped next, of ids that `of` tells."""

    def lines_of(self, listed: Sequence[Int64s]) -> Iterator[Int64s]:
        """Lines of identity and state of entries whose ids are given pane by pane, in parts.

        All entries of a key are in one part, pane by pane; there is one part at least.
        """
        if len(listed) == 1:
            yield self.read(listed[0])[0]
        elif listed:
            yield np.concatenate([self.read(ids)[0] for ids in listed], axis=1)
        else:
            yield np.empty((len(self.table.columns), 0), dtype=np.int64)

    def ids_near(self, pane: int, keys: Int64s) -> Int64s:
        """The ids of a pane's entries, of these keys at least."""
        return self.ids_of(pane)

    def _remove(self, ids: Int64s) -> None:
        """Take entries that are listed no more out of the table."""
        self.table.remove(ids)

    # Bins that leave and come --------------------------------------------------------------------

    def left(self) -> None:
        """Note that entries have left."""
        self._doubtful.update(self._panes)

    def came(self, bins: Int64s) -> None:
        """List the entries of bins whose rows were put into the table.

        Raises:
            StateCorrupt: an entry has an id that its identity does not say.
        """
        rows = self.table.extract_bins(bins)
        lines = [values.view(np.int64) for values in rows.columns.values()]
        self.loaded(rows.keys, np.array(lines[: self.lines], dtype=np.int64))

    def loaded(self, ids: Int64s, identity: Int64s) -> None:
        """The same for entries given by their ids and identities; marks are passed over."""
        entries = ~self.are_marks(ids)
        ids, identity = ids[entries], np.ascontiguousarray(identity[:, entries])
        others = np.arange(len(ids))
        for salt in range(_SALTS_MAX):
            others = others[ids[others] != self._ids(identity, salt)[others]]
            if not len(others):
                self.salts = max(self.salts, salt)
                break
        else:
            raise StateCorrupt(f"an entry of a window has id {ids[others[0]]}, which is not its")
        if len(ids):
            self._list(ids, identity[_PANE])
            self._doubtful.update(np.unique(identity[_PANE]).tolist())

    def clear(self) -> None:
        """List nothing."""
        self._panes.clear()
        self._doubtful.clear()
        self.salts = 0

    # Marks --------------------------------------------------------------------------------------

    def marks(self, bins: Int64s) -> Int64s:
        """The id of each bin that no entry has, for what is kept of the bin as a whole."""
        ids = np.empty(len(bins), dtype=np.int64)
        kernels.mark_of(np.ascontiguousarray(bins, dtype=np.int64), self.table.bin_bits, ids)
        return ids

    def are_marks(self, ids: Int64s) -> NDArray[np.bool_]:
        """Which of the ids are marks."""
        found: NDArray[np.bool_] = ids == self.marks(
            bins_of(ids, self.table.bin_bits).astype(np.int64)
        )
        return found

    def _list(self, ids: Int64s, panes: Int64s) -> None:
        if panes.min() == panes.max():
            self._add(int(panes[0]), ids.copy())
            return
        order = np.argsort(panes, kind="stable")
        ids, panes = ids[order], panes[order]
        edges = [0, *(np.flatnonzero(np.diff(panes)) + 1).tolist(), len(panes)]
        for start, end in pairwise(edges):
            self._add(int(panes[start]), ids[start:end].copy())

    def _add(self, pane: int, ids: Int64s) -> None:
        self._panes.setdefault(pane, []).append(ids)
