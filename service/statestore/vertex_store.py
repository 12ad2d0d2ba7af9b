"""State of one stateful vertex on one slot: its table, its program, and the timers of its bins.

Flow: S applies batches -> [VertexStore]; a move is extract -> chunks -> assembler -> install; a
plain stop is a checkpoint of all the slot's stores.

Invariants
  V1  `extract` copies at the call; what it yields does not see later changes.
  V2  `install` deletes the bin's range first: nothing of an older copy of the bin survives.
  V3  `install` refuses state of another vertex, another number of bins, other columns, or one that
      holds only changes since some mark; then the bin is as before.
  V4  A row's version is the store's change counter as of its last change: a row changed after
      `change_mark` gave m has a version above m. Times do not serve for that, as rows of an older
      one may come later. The counter never falls, and no row here is ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import FormatMismatch, StateCorrupt
from service.statestore.arena import KeyedTable
from service.statestore.arena_residents import ArenaResidents
from service.statestore.chunk import BinAssembler, encode_bin, encode_portions
from service.statestore.columns import ColumnSpec, Rows, Values
from service.statestore.copying import copy_of
from service.statestore.groups import BinGroups
from service.statestore.hosted import StoredValues
from service.statestore.scanning import portions_of
from service.statestore.slot_database import SlotDatabase
from service.statestore.table_copying import TableCopier
from service.statestore.tiered_table import TieredTable
from service.statestore.timers import TimerTable

#: Memory of bins that have left which may stay for bins to come; of a table with a budget none.
KEPT_BYTES = 256 << 20


class ArenaProgram(Protocol):
    """How a batch changes rows of a table, by kernels only."""

    @property
    def state_columns(self) -> Sequence[ColumnSpec]:
        """What is kept for each key."""
        ...

    def apply(
        self,
        table: KeyedTable,
        keys: NDArray[np.int64],
        values: Mapping[str, Values],
        version: int,
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """Change the table by a batch of columns; the keys and columns that come of it."""
        ...

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """The same for a record batch, which has the program's columns."""
        ...


class VertexStore:
    """Keyed state of the vertex named `vertex`."""

    def __init__(self, vertex: str, program: ArenaProgram, bin_bits: int) -> None:
        """Make an empty store with 2**bin_bits bins."""
        self.vertex = vertex
        self.program = program
        self.bin_bits = bin_bits
        self.table: KeyedTable = KeyedTable(bin_bits, program.state_columns)
        self.table.keeper.most_bytes = KEPT_BYTES
        #: V4.
        self._changes = 0
        self.pending = TimerTable(bin_bits)
        self.copier = TableCopier(
            vertex, self.table, self.timers, self.set_timers, self._next_change
        )
        #: Small bins together; None while rows may be on disk.
        self.groups: BinGroups | None = BinGroups(
            vertex, self.table, self.copier, self.pending.bin_nbytes, self.reach
        )

    def back_with(self, slot: SlotDatabase, number: int) -> TieredTable:
        """Keep rows that the budget of `slot` has no room for there, as vertex `number`.

        Only while the store is empty.
        """
        assert not self.row_count, "rows are not carried over"
        tiered = TieredTable(self.bin_bits, self.table.columns, slot, number)
        self.table = tiered
        self.copier.copy_from(tiered)
        self.groups = None
        return tiered

    def residents(self) -> ArenaResidents:
        """The rows in memory, for the tier of a store around this one."""
        self.table.keeper.most_bytes = 0
        return ArenaResidents(self.table, self.stored_rows, self.load_rows)

    @property
    def tier(self) -> TieredTable | None:
        """The table, where it has a database behind it."""
        return self.table if isinstance(self.table, TieredTable) else None

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        return 1 << self.bin_bits

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of each state column in order."""
        return tuple((spec.name, spec.described) for spec in self.table.columns)

    def apply(
        self, keys: NDArray[np.int64], values: Mapping[str, Values], version: int
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """Fold a batch into the state as changed at `version` (V4); see the program's `apply`."""
        self._changes = max(self._changes, version)
        return self.program.apply(self.table, keys, values, version)

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Fold a batch at `time` into the state; see the program's `apply_rows`."""
        return self.program.apply_rows(self.table, rows, self._next_change())

    def _next_change(self) -> int:
        self._changes += 1
        return self._changes

    def change_mark(self) -> int:
        """The change counter: what changes from now on has a greater version (V4)."""
        return self._changes

    def extract(
        self, bin_id: int, since: int = 0, cut: int = 0, keys: bytes = b""
    ) -> Iterator[bytes]:
        """Chunks of the bin's rows changed after `since` (0: all), and of all its timers (V1).

        Args:
            bin_id: the bin.
            since: a change mark; rows of later versions only. Unless 0, it cannot be installed
                (V3).
            cut: the epoch that the state is of, stamped on each chunk.
            keys: what the keys have beside their integers.
        """
        metadata = {"vertex": self.vertex, "bins": str(self.bins), "since": str(since)}
        rows = self.table.extract(bin_id, since)
        return encode_bin(bin_id, cut, rows, self.timers(bin_id), metadata, keys=keys)

    def give_up(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's state, read as they are taken; it is forgotten with the last.

        Cost: memory of one chunk, whatever the bin holds; with rows on disk that of the bin.
        """
        if isinstance(self.table, TieredTable):
            # Rows would come and go under a reader that goes slot by slot.
            chunks = self.extract(bin_id, cut=cut)
            self.delete(bin_id)
            return chunks
        metadata = {"vertex": self.vertex, "bins": str(self.bins), "since": "0"}
        portions = portions_of(self.table, bin_id)
        forget = partial(self.delete, bin_id)
        return encode_portions(bin_id, cut, portions, self.timers(bin_id), metadata, forget)

    def assembler(self, bin_id: int) -> BinAssembler:
        """An assembler for chunks of the bin; feed it, then `install`."""
        return BinAssembler(bin_id)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's state by what the complete assembler holds (V2, V3).

        Raises:
            StateError: the assembler is not complete.
            StateCorrupt: a key is of another bin or comes twice.
            FormatMismatch: V3.
        """
        if assembler.bin != bin_id:
            raise StateCorrupt(f"state of bin {assembler.bin} came for bin {bin_id}")
        expected = {"vertex": self.vertex, "bins": str(self.bins), "since": "0"}
        found = assembler.metadata
        if copy_of(found) is not None:
            del expected["since"]
        for name, value in expected.items():
            if found.get(name) != value:
                raise FormatMismatch(
                    f"state of bin {bin_id} has {name} {found.get(name, 'unnamed')}, "
                    f"{value} is needed"
                )
        if "since" not in expected:
            self.copier.adopt(bin_id, assembler)
            return
        rows, timers = assembler.rows(), assembler.timers()
        self.pending.check(bin_id, timers)
        self.copier.replaced(bin_id)
        self.table.install(bin_id, rows)
        self.reach(rows.versions)
        self.set_timers(bin_id, timers)

    def delete(self, bin_id: int) -> None:
        """Forget the bin's rows and timers."""
        self.copier.end(bin_id)
        self.table.delete(bin_id)
        self.pending.delete(bin_id)

    def expect(self, bins: int) -> None:
        """As `HostedStore.expect`."""
        self.table.keeper.expect(bins)

    def rest(self) -> None:
        """As `HostedStore.rest`."""
        self.table.keeper.rest()

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self.pending.clear()

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
    def row_count(self) -> int:
        """Rows of all bins. Cost: O(bins)."""
        return self.table.row_count

    @property
    def total_nbytes(self) -> int:
        """Bytes of the regions of all bins, of timers, and what rows in the database would take."""
        return self.table.nbytes + self.pending.nbytes

    def rows(self, bin_id: int) -> int:
        """Number of rows of the bin."""
        return self.table.rows(bin_id)

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Number of rows of every bin, a copy."""
        return self.table.rows_per_bin()

    @property
    def stored_bytes(self) -> int:
        """Length of what a checkpoint keeps of each row: its version and its state columns."""
        return 8 * (1 + len(self.columns))

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Keys of these bins, and of each its version and state columns."""
        rows = self.table.extract_bins(bins)
        values = np.empty((len(rows), 1 + len(rows.columns)), dtype="<i8")
        values[:, 0] = rows.versions
        for column, cells in enumerate(rows.columns.values()):
            values[:, 1 + column] = cells.view(np.int64)
        return rows.keys, values.view(f"V{values.shape[1] * 8}").reshape(len(rows))

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Append rows that `stored_rows` gave; raises as `KeyedTable.append`."""
        width = 1 + len(self.columns)
        cells = np.frombuffer(b"".join(values), dtype="<i8").reshape(len(values), width)
        columns = {
            spec.name: np.ascontiguousarray(cells[:, 1 + index]).view(spec.dtype)
            for index, spec in enumerate(self.table.columns)
        }
        self.table.append(Rows(keys, cells[:, 0], columns))
        self.reach(cells[:, 0])

    def reach(self, versions: NDArray[np.int64]) -> None:
        """Bring the counter to where rows that came from elsewhere are (V4)."""
        self._changes = max(self._changes, int(versions.max(initial=0)))

    def nbytes(self, bin_id: int) -> int:
        """Bytes that the bin takes: its region of the table and its timers."""
        return self.table.bin_nbytes(bin_id) + self.pending.bin_nbytes(bin_id)
