"""State of one stateful vertex on one slot as typed rows: any number of them under each key.

Flow: S applies batches -> [RowStore] -> a row program, by kernels; a move is extract -> chunks ->
install; a plain stop is a checkpoint, all as for `VertexStore`, and all in [RowBins].

In the chunks of a bin the rows section lists keys, versions, and of each key the number of rows of
each group and of their cells; the cells follow in the heap section. In a checkpoint a key's value
is its version, those numbers of rows, and the cells.

Invariants
  RS1  `extract` copies at the call (HS1); `install` checks all before it changes the bin (HS2).
  RS2  State of other columns, or of columns of other types, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import FormatMismatch, StateCorrupt
from service.statestore.arena_residents import ArenaResidents
from service.statestore.chunk import BinAssembler, encode_bin
from service.statestore.cold_tier import ColdTier
from service.statestore.columns import Rows, numbers_of
from service.statestore.hosted import StoredValues
from service.statestore.row_format import RowFormat
from service.statestore.row_heap import Extracted
from service.statestore.row_kinds import row_columns
from service.statestore.row_table import RowTable
from service.statestore.slot_database import SlotDatabase
from service.statestore.timers import TimerTable
from service.statestore.whole_copying import WholeBins

_CELLS = "cells"
_CELL_BYTES = 8


class RowProgram(Protocol):
    """How a batch changes a table of typed rows."""

    @property
    def key(self) -> str:
        """Name of the int64 column of keys."""
        ...

    @property
    def formats(self) -> Sequence[RowFormat]:
        """Formats of the groups of rows that are kept."""
        ...

    def apply_rows(self, table: RowTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """Change the table by a batch, its keys to `version`; returns what it gives."""
        ...


class RowBins:
    """Typed rows and timers of the vertex named `vertex`; who changes them is said elsewhere."""

    #: Each bin leaves on its own.
    groups: None = None

    def __init__(self, vertex: str, formats: Sequence[RowFormat], bin_bits: int) -> None:
        """Make an empty store with 2**bin_bits bins, for groups of rows of these formats."""
        self.vertex = vertex
        self.bin_bits = bin_bits
        self.table = RowTable(bin_bits, formats)
        self.pending = TimerTable(bin_bits)
        #: The version of the last change; see V4 of `vertex_store`.
        self._changes = 0
        self.copier = WholeBins(bin_bits, self._give_up)
        #: What the database has, where there is one.
        self.tier: ColdTier | None = None

    def back_with(self, slot: SlotDatabase, number: int) -> None:
        """Keep rows that the budget of `slot` has no room for there, as vertex `number`.

        Only while the store is empty.
        """
        assert not self.row_count, "rows are not carried over"
        self.tier = ColdTier(self.residents(), slot, number)

    def residents(self) -> ArenaResidents:
        """The rows in memory, for a tier."""
        return ArenaResidents(self.table, self._in_memory, self._load, self.pending)

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        return 1 << self.bin_bits

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of each column, as `row_kinds` names them."""
        return row_columns(self.table.formats)

    @property
    def row_count(self) -> int:
        """Keys of all bins. Cost: O(bins)."""
        return self.table.key_count + (0 if self.tier is None else self.tier.away_count)

    @property
    def total_nbytes(self) -> int:
        """Bytes of the regions of all bins, and an estimate of what away rows would take."""
        away = 0 if self.tier is None else self.tier.total_away_nbytes
        return self.table.nbytes + self.pending.nbytes + away

    def change_mark(self) -> int:
        """The change counter: a key that changes from now on has a greater version."""
        return self._changes

    def extract(
        self, bin_id: int, since: int = 0, cut: int = 0, keys: bytes = b""
    ) -> Iterator[bytes]:
        """Chunks of the bin's keys changed after `since` (0: all), and of all timers (RS1).

        Args:
            bin_id: the bin.
            since: a change mark; keys of later versions only. Unless 0, it cannot be installed.
            cut: the epoch that the state is of, stamped on each chunk.
            keys: what the keys have beside their integers.
        """
        if self.tier is not None:
            self.tier.recall_bin(bin_id)
        rows = self.table.extract(np.array([bin_id], dtype=np.int64), since)
        columns = dict(zip(self._counted, rows.counts, strict=True))
        columns[_CELLS] = np.diff(rows.ends, prepend=0)
        listed = Rows(rows.keys, rows.versions, columns)
        metadata = {**self._described, "since": str(since)}
        heap = memoryview(rows.cells.data)
        return encode_bin(bin_id, cut, listed, self.timers(bin_id), metadata, heap=heap, keys=keys)

    def give_up(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's rows and timers, copied at the call; the bin is forgotten."""
        return self._give_up(bin_id, cut)

    def assembler(self, bin_id: int) -> BinAssembler:
        """An assembler for chunks of the bin; feed it, then `install`."""
        return BinAssembler(bin_id)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's rows by what the complete assembler holds (RS1, RS2).

        Raises:
            StateError: the assembler is not complete.
            StateCorrupt: rows are not whole, or a key is of another bin or comes twice.
            FormatMismatch: it is state of another vertex, number of bins or columns, or holds
                only what changed since some mark.
        """
        if assembler.bin != bin_id:
            raise StateCorrupt(f"state of bin {assembler.bin} came for bin {bin_id}")
        found = assembler.metadata
        for name, value in {**self._described, "since": "0"}.items():
            if found.get(name) != value:
                raise FormatMismatch(
                    f"state of bin {bin_id} has {name} {found.get(name, 'unnamed')}, "
                    f"{value} is needed"
                )
        listed = assembler.rows()
        if list(listed.columns) != [*self._counted, _CELLS]:
            raise FormatMismatch(f"state of bin {bin_id} has columns {list(listed.columns)}")
        lines = [np.ascontiguousarray(each, dtype=np.int64) for each in listed.columns.values()]
        timers = assembler.timers()
        self.pending.check(bin_id, timers)
        self.table.install(
            bin_id,
            Extracted(
                listed.keys,
                listed.versions,
                np.array(lines[:-1], dtype=np.int64).reshape(len(lines) - 1, len(listed)),
                np.cumsum(lines[-1]),
                self._cells_of(assembler.heap()),
            ),
        )
        self.reach(listed.versions)
        self.set_timers(bin_id, timers)
        if self.tier is not None:
            self.tier.forget(bin_id)
            self.tier.make_room()

    def delete(self, bin_id: int) -> None:
        """Forget the bin's rows and timers."""
        self.table.delete(bin_id)
        self.pending.delete(bin_id)
        if self.tier is not None:
            self.tier.forget(bin_id)

    def expect(self, bins: int) -> None:
        """Memory is found as it is needed."""

    def rest(self) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self.pending.clear()
        if self.tier is not None:
            self.tier.clear()

    def rows(self, bin_id: int) -> int:
        """Number of keys of the bin."""
        return self.table.keys(bin_id) + (0 if self.tier is None else self.tier.away(bin_id))

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Number of keys of every bin, a copy."""
        return self.table.keys_per_bin() if self.tier is None else self.tier.rows_per_bin()

    def nbytes(self, bin_id: int) -> int:
        """Bytes that the bin takes: its regions of the index, of the heap and of the timers.

        What its away rows would take is estimated.
        """
        away = 0 if self.tier is None else self.tier.away_nbytes(bin_id)
        return self.table.bin_nbytes(bin_id) + self.pending.bin_nbytes(bin_id) + away

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """The bin's timers as entries of many, in order (TI2 of `timers`)."""
        return self.pending.pack(bin_id)

    def set_timers(self, bin_id: int, timers: Sequence[bytes]) -> None:
        """Replace the bin's timers by those of entries that `timers` gave.

        Raises:
            StateCorrupt: they are others; the bin's timers are as before.
        """
        self.pending.unpack(bin_id, timers)

    @property
    def stored_bytes(self) -> None:
        """None: keys have different numbers of rows."""
        return None

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Keys of these bins, and of each its version, its numbers of rows and its cells."""
        keys, values = self._in_memory(bins)
        return (keys, values) if self.tier is None else self.tier.with_away(bins, keys, values)

    def _in_memory(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """The same of the rows in memory."""
        rows = self.table.extract(bins)
        heads = np.concatenate((rows.versions[None], rows.counts)).T.astype("<i8")
        width = heads.shape[1] * _CELL_BYTES
        lead, cells = heads.tobytes(), rows.cells.astype("<i8").tobytes()
        ends = [0, *(rows.ends * _CELL_BYTES).tolist()]
        values = np.empty(len(rows), dtype=np.object_)
        values[:] = [
            lead[number * width : (number + 1) * width] + cells[ends[number] : ends[number + 1]]
            for number in range(len(rows))
        ]
        return rows.keys, values

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Add keys that are not there, from what `stored_rows` gave.

        Raises:
            StateCorrupt: a value is not whole, or a key is there already.
        """
        if self.tier is not None:
            self.tier.require_new(keys)
        self._load(keys, values)
        if self.tier is not None:
            self.tier.make_room()

    def _load(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Add keys to those in memory."""
        width = (1 + len(self.table.formats)) * _CELL_BYTES
        sizes = np.fromiter(map(len, values), np.int64, len(values)) - width
        if len(sizes) and (sizes.min() < 0 or np.any(sizes % _CELL_BYTES)):
            raise StateCorrupt(f"a key of vertex {self.vertex!r} has a value of another length")
        lead = np.frombuffer(b"".join(value[:width] for value in values), dtype="<i8")
        heads = lead.reshape(len(values), width // _CELL_BYTES).T.astype(np.int64)
        cells = self._cells_of(b"".join(value[width:] for value in values))
        ends = np.cumsum(sizes // _CELL_BYTES)
        self.table.append(Extracted(keys, heads[0], np.ascontiguousarray(heads[1:]), ends, cells))
        self.reach(heads[0])

    @property
    def _counted(self) -> list[str]:
        """Names of the columns that say how many rows of each group a key has."""
        return [f"rows of {group}" for group in range(len(self.table.formats))]

    @property
    def _described(self) -> dict[str, str]:
        columns = "; ".join(f"{name}: {kind}" for name, kind in self.columns)
        return {"vertex": self.vertex, "bins": str(self.bins), "rows": columns}

    def _give_up(self, bin_id: int, cut: int) -> Iterator[bytes]:
        chunks = self.extract(bin_id, cut=cut)
        self.delete(bin_id)
        return chunks

    def reach(self, versions: NDArray[np.int64]) -> None:
        """Bring the counter to where rows that came from elsewhere are."""
        self._changes = max(self._changes, int(versions.max(initial=0)))

    def _cells_of(self, content: bytes) -> NDArray[np.int64]:
        if len(content) % _CELL_BYTES:
            raise StateCorrupt(f"state of vertex {self.vertex!r} has {len(content)} bytes of rows")
        return np.frombuffer(content, dtype="<i8").astype(np.int64)


class RowStore(RowBins):
    """Typed rows of a vertex, changed by a program."""

    def __init__(self, vertex: str, program: RowProgram, bin_bits: int) -> None:
        """Make an empty store with 2**bin_bits bins."""
        super().__init__(vertex, program.formats, bin_bits)
        self.program = program

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Run the program over a batch at `time`."""
        self._changes += 1
        if self.tier is None:
            return self.program.apply_rows(self.table, rows, self._changes)
        self.tier.make_room()
        absent = self.tier.recall(numbers_of(rows, self.program.key).view(np.int64))
        outputs = self.program.apply_rows(self.table, rows, self._changes)
        self.tier.unmark(absent)
        return outputs
