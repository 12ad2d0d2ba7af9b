"""Pieces of bins of an arena table.

Flow: `VertexStore` -> [TableCopier]; see `copying` for the protocol.

A piece, little endian:
    rows u32 | gone u32 | room u64 | lines of int64: keys, each state column | keys that are gone
`room` is how many rows the bin has, where the piece is one of a walk through its slots; else 0.

Invariants
  TC1  A piece holds keys of its bin, or is refused as a whole.
  TC2  A bin whose region moved during the first round is gone through anew, so that no row that
       changed its slot is missed.
  TC3  Where all rows are in memory, the first piece of a bin makes room for all its rows at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore import scanning
from service.statestore.arena import KeyedTable
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import PORTION_BYTES, BinAssembler, encode_portions
from service.statestore.columns import Rows, no_rows
from service.statestore.copying import BinCopier, Int64s
from service.statestore.groups import Remainder
from service.statestore.place import Place
from service.statestore.tiered_table import TieredTable

_HEADER = struct.Struct("<IIQ")


class TableCopier(BinCopier):
    """Copies bins of one vertex's table."""

    def __init__(
        self,
        vertex: str,
        table: KeyedTable,
        timers: Callable[[int], tuple[bytes, ...]],
        set_timers: Callable[[int, list[bytes]], None],
        next_change: Callable[[], int],
    ) -> None:
        """Copy bins of `table`, and their timers whole at the cut; changes count on here."""
        super().__init__(table.bin_bits)
        self._vertex = vertex
        self._table = table
        self._timers = timers
        self._set_timers = set_timers
        self._next_change = next_change
        self._width = 1 + len(table.columns)

    def copy_from(self, table: KeyedTable) -> None:
        """Copy bins of `table` instead; only while nothing is copied or staged."""
        assert not self._copies, "what is copied is copied of one table"
        self._table = table

    def _notes_go_to(self, changes: ChangedKeys | None) -> None:
        table = self._table
        if changes is None:
            table.on_change = table.on_removal = None
            return

        def removing(keys: Int64s) -> None:
            changes.note(keys)
            changes.note(scanning.behind(table, keys))

        table.on_change, table.on_removal = changes.note, removing

    def _all_keys(self, bin_id: int) -> Int64s | None:
        # Of a table with rows on disk there is no going through slots.
        return self._table.all_keys(bin_id) if isinstance(self._table, TieredTable) else None

    def _scan(self, bin_id: int, place: Place, nbytes: int) -> bytes:
        most = max(1, nbytes // (8 * self._width))
        lines = scanning.next_rows(self._table, bin_id, place, most)
        return b"" if lines is None else _piece(lines, lines[0, :0], self._table.rows(bin_id))

    def _read(self, keys: Int64s, nbytes: int) -> tuple[bytes, int]:
        some = keys[: max(1, nbytes // (8 * self._width))]
        return _piece(*scanning.rows_of(self._table, some), 0), len(some)

    def _chunks_left(self, bin_id: int, number: int, cut: int) -> Iterator[bytes]:
        metadata = {
            "vertex": self._vertex,
            "bins": str(self._table.bins),
            "rows": str(self._table.rows(bin_id)),
            **self._told(bin_id, number),
        }

        def forget() -> None:
            self.end(bin_id)
            self._table.delete(bin_id)
            self._set_timers(bin_id, [])

        portions = self._portions_left(bin_id)
        return encode_portions(bin_id, cut, portions, self._timers(bin_id), metadata, forget)

    def remainder_nbytes(self, bin_id: int) -> int | None:
        """Bytes of what is left of the bin; None while its first round is not through."""
        copy = self._copies.get(bin_id)
        if copy is None or copy.place is not None:
            return None
        return 8 * (1 + self._width) * (len(copy.keys) + self.changed(bin_id))

    def leave_together(self, bins: Sequence[int]) -> Remainder:
        """What was not told of these bins (PC2), which have a `remainder_nbytes`; it forgets them.

        They must have no timers. Cost: 10 us a bin and 0.1 us a key.
        """
        numbers = np.array(sorted(bins), dtype=np.int64)
        assert self._changes is not None, "PC1"
        copies = [self._copies.pop(bin_id) for bin_id in numbers.tolist()]
        keys, following = self._changes.take_last(numbers)
        if not following:
            self._changes = None
            self._notes_go_to(None)
        if any(len(copy.keys) for copy in copies):
            keys = np.unique(np.concatenate([keys, *(copy.keys for copy in copies)]))
            keys = keys[np.argsort(bins_of(keys, self._bin_bits), kind="stable")]
        told = np.array([copy.told.intdigest() for copy in copies], dtype=np.uint64)
        remainder = Remainder(
            numbers,
            np.bincount(bins_of(keys, self._bin_bits), minlength=self._table.bins)[numbers],
            self._table.rows_per_bin()[numbers],
            told.view(np.int64),
            scanning.lines_of(self._table, keys),
        )
        self._table.delete_bins(numbers)
        return remainder

    def adopt_together(self, number: int, remainder: Remainder) -> None:
        """Complete copy `number` of several bins, or fail and keep nothing of them (PC4).

        Raises:
            StateCorrupt: as `adopt`, or a key is of another bin.
        """
        bins, lines = remainder.bins.tolist(), remainder.lines
        try:
            counted = np.repeat(remainder.bins, remainder.counts)
            if len(counted) != lines.shape[1] or np.any(
                bins_of(lines[0], self._bin_bits) != counted
            ):
                raise StateCorrupt("what completes several bins holds keys of another bin")
            for bin_id, told in zip(bins, remainder.told.view(np.uint64).tolist(), strict=True):
                self._require_told(bin_id, number, told)
            gone = lines[1] < 0
            there = np.delete(lines, 1, axis=0)[:, ~gone]
            self._write_lines(np.ascontiguousarray(there), lines[0, gone])
            rows = self._table.rows_per_bin()[remainder.bins]
            if np.any(rows != remainder.rows):
                wrong = int(np.flatnonzero(rows != remainder.rows)[0])
                raise StateCorrupt(
                    f"bin {bins[wrong]} of {self._vertex!r} has {rows[wrong]} rows after its copy "
                    f"was completed; its old owner had {remainder.rows[wrong]}; nothing was "
                    "installed"
                )
        except StateCorrupt:
            for bin_id in bins:
                self._staged.pop(bin_id, None)
                self._forget_rows(bin_id)
            raise

    def _portions_left(self, bin_id: int) -> Iterator[Rows]:
        copy = self._copies[bin_id]
        most = PORTION_BYTES // (8 * (1 + self._width))
        if copy.place is None and not len(copy.keys):
            yield no_rows(self._table.columns)
        while copy.place is not None:
            lines = scanning.next_rows(self._table, bin_id, copy.place, most)
            if lines is None:
                copy.place = None
                lines = np.empty((self._width, 0), dtype=np.int64)
            yield scanning.as_rows(self._table, lines)
        for start in range(0, len(copy.keys), most):
            lines, gone = scanning.rows_of(self._table, copy.keys[start : start + most])
            yield scanning.as_rows(self._table, lines)
            if len(gone):
                yield scanning.as_gone(self._table, gone)

    def _write(self, bin_id: int, piece: bytes | memoryview) -> None:
        lines, gone, room = _parts(bin_id, piece, self._width)
        for keys in (lines[0], gone):
            if len(keys) and np.any(bins_of(keys, self._bin_bits) != bin_id):
                raise StateCorrupt(f"a piece of bin {bin_id} holds keys of another bin")
        if not isinstance(self._table, TieredTable):
            scanning.make_room(self._table, bin_id, room)
        self._write_lines(lines, gone)

    def _complete(self, bin_id: int, assembler: BinAssembler) -> None:
        found = assembler.metadata
        rows = assembler.rows()
        if np.any(bins_of(rows.keys, self._bin_bits) != bin_id):
            raise StateCorrupt(f"what completes bin {bin_id} holds keys of another bin")
        gone = rows.versions < 0
        stays = slice(None) if not gone.any() else ~gone
        lines = scanning.as_lines(self._table, rows)
        self._write_lines(np.ascontiguousarray(lines[:, stays]), rows.keys[gone])
        if found.get("rows") != str(self._table.rows(bin_id)):
            raise StateCorrupt(
                f"bin {bin_id} of {self._vertex!r} has {self._table.rows(bin_id)} rows after its "
                f"copy was completed; its old owner had {found.get('rows')}; nothing was installed"
            )
        self._set_timers(bin_id, assembler.timers())

    def _write_lines(self, lines: Int64s, gone: Int64s) -> None:
        # To whoever asks what changed here, all of it has.
        scanning.put(self._table, lines, self._next_change())
        if len(gone):
            self._table.remove(gone)

    def _forget_rows(self, bin_id: int) -> None:
        self._table.delete(bin_id)


def _piece(lines: Int64s, gone: Int64s, room: int) -> bytes:
    header = _HEADER.pack(lines.shape[1], len(gone), room)
    return b"".join((header, lines.tobytes(), gone.tobytes()))


def _parts(
    bin_id: int, piece: bytes | memoryview, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    if len(piece) < _HEADER.size:
        raise StateCorrupt(f"a piece of bin {bin_id} has {len(piece)} bytes")
    rows, gone, room = _HEADER.unpack_from(piece)
    if len(piece) != _HEADER.size + 8 * (rows * width + gone):
        raise StateCorrupt(f"a piece of bin {bin_id} with {rows} rows has {len(piece)} bytes")
    cells = np.frombuffer(piece, dtype="<i8", offset=_HEADER.size)
    return cells[: rows * width].reshape(width, rows), cells[rows * width :], room
