"""State of one stateful vertex on one slot as Python objects: key -> any object, in bins.

Flow: S applies batches -> [ObjectStore] -> an object program, row by row; a move is extract ->
chunks -> assembler -> install; a plain stop is a checkpoint, all as for `VertexStore`.

Objects are encoded by `object_codec`, which runs no code that the bytes name, or by two functions
of the user's, for objects that it does not take; what those run is the user's to judge.

All objects in memory are in one dict, so that a row costs one lookup; which keys a bin has is kept
beside it and changes only with keys that come and go. Under a budget the others are in the slot's
database, encoded.

In the chunks of a bin the rows section lists keys and the length of each encoding; the encodings
follow each other as one run of bytes, cut into pieces that fit into entries of the timers section.

Invariants
  OB1  `extract` encodes at the call: later changes, in place too, are not seen (HS1).
  OB2  `install` decodes everything before the bin's old state is let go (HS2).
  OB3  After a batch that failed midway no state is given out any more (HS3).
  OB4  A state that cannot be encoded is found at the first batch that leaves one of its type, and
       otherwise by a sample of every `SAMPLE_ROWS` rows; at the latest when it leaves memory.
Cost: encoding 1 to 2 us for a small object, in one step of the process for a whole bin; memory is
Python's, about 200 bytes a key beside the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import FormatMismatch, StateCorrupt
from service.hashing import bins_of
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import BinAssembler, encode_bin
from service.statestore.cold_tier import NO_KEYS, ColdTier
from service.statestore.columns import Rows, numbers_of
from service.statestore.copying import copy_of
from service.statestore.hosted import StoredValues
from service.statestore.object_copying import SIZE, ObjectCopier, entries_of
from service.statestore.object_rows import (
    BOUNDED_SAMPLE_ROWS,
    OBJECTS,
    ObjectRows,
    Objects,
    StateCodec,
)
from service.statestore.slot_database import SlotDatabase

#: Keys that are asked of the database at once where many are to be told.
_KEYS_AT_ONCE = 1 << 8


class ObjectProgram(Protocol):
    """How a batch changes objects."""

    @property
    def key(self) -> str:
        """Name of the int64 column of keys."""
        ...

    def apply(
        self, objects: Objects, keys: list[int], rows: pa.RecordBatch, time: tuple[int, ...]
    ) -> pa.RecordBatch:
        """Change the state of `keys[n]` by row n, in order; returns what comes of it."""
        ...


class ObjectStore:
    """Objects of the vertex named `vertex`."""

    #: Each bin leaves on its own.
    groups: None = None

    def __init__(
        self, vertex: str, program: ObjectProgram, bin_bits: int, codec: StateCodec = OBJECTS
    ) -> None:
        """Make an empty store with 2**bin_bits bins."""
        self.vertex = vertex
        self.bin_bits = bin_bits
        self.program = program
        self._rows = ObjectRows(vertex, bin_bits, codec)
        self._objects = self._rows.objects
        #: What the database has, where there is one.
        self.tier: ColdTier | None = None
        #: Batches applied and bins installed.
        self._changes = 0
        #: Where keys are noted that a batch may change; None: nowhere.
        self.changes: ChangedKeys | None = None
        self.copier = ObjectCopier(self)

    def back_with(self, slot: SlotDatabase, number: int) -> None:
        """Keep objects that the budget of `slot` has no room for there, as vertex `number`.

        Only while the store is empty.
        """
        assert not self.row_count, "objects are not carried over"
        self.tier = ColdTier(self.residents(), slot, number)

    def residents(self) -> ObjectRows:
        """The objects in memory, for a tier, which wants their sizes known more closely."""
        self._rows.sample_rows = BOUNDED_SAMPLE_ROWS
        return self._rows

    def reach(self, versions: NDArray[np.int64]) -> None:
        """Nothing: objects have no versions."""

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        return 1 << self.bin_bits

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """One column, the object."""
        return (("object", self._rows.codec.name),)

    @property
    def row_count(self) -> int:
        """Keys of all bins."""
        return self._rows.count + (0 if self.tier is None else self.tier.away_count)

    @property
    def total_nbytes(self) -> int:
        """Bytes of all bins, estimated as `nbytes` does."""
        return self._rows.estimate(self.row_count)

    def state(self, key: int) -> object:
        """The state of a key, itself and no copy; None if there is none."""
        if self.tier is not None:
            self.tier.recall(np.array([key], dtype=np.int64))
        return self._objects.states.get(key)

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Run the program over a batch at `time`, its rows in order.

        Raises:
            UserFunctionError: a function of the flow raised; the state is lost to this process.
            StateError: a state that the batch left, or one that leaves memory, cannot be encoded
                (OB4), or OB3.
        """
        self._rows.require_whole()
        numbers = np.asarray(numbers_of(rows, self.program.key), dtype=np.int64)
        absent = NO_KEYS
        if self.tier is not None:
            self.tier.make_room()
            absent = self.tier.recall(numbers)
        self._rows.whole = False
        self._changes += 1
        if self.changes is not None:
            self.changes.note(numbers)
        keys = numbers.tolist()
        outputs = self.program.apply(self._objects, keys, rows, time)
        self._rows.touched(keys)
        self._note_members()
        self._rows.whole = True
        if self.tier is not None:
            self.tier.unmark(absent)
        if keys:
            self._rows.sample(keys[-1], len(keys))
        return outputs

    def change_mark(self) -> int:
        """How often the state has changed: by a batch, or by a bin that was installed."""
        return self._changes

    def extract(self, bin_id: int, *, cut: int, keys: bytes = b"") -> Iterator[bytes]:
        """Chunks of the bin's objects as of `cut`, with what its `keys` have beside integers (OB1).

        Raises:
            StateError: an object cannot be encoded, or OB3.
        """
        listed, values = self.stored_rows(np.array([bin_id], dtype=np.int64))
        encoded: list[bytes] = values.tolist()
        lengths = np.array([len(each) for each in encoded], dtype=np.int64)
        rows = Rows(listed, np.zeros_like(lengths), {SIZE: lengths})
        return encode_bin(bin_id, cut, rows, entries_of(encoded), self.described, keys=keys)

    def give_up(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's objects, encoded at the call; the bin is forgotten."""
        chunks = self.extract(bin_id, cut=cut)
        self.delete(bin_id)
        return chunks

    def assembler(self, bin_id: int) -> BinAssembler:
        """An assembler for chunks of the bin; feed it, then `install`."""
        return BinAssembler(bin_id)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's objects by what the complete assembler holds (OB2).

        Raises:
            StateError: the assembler is not complete.
            StateCorrupt: an object cannot be decoded, or a key is of another bin or comes twice.
            FormatMismatch: it is state of another vertex, number of bins or kind.
        """
        if assembler.bin != bin_id:
            raise StateCorrupt(f"state of bin {assembler.bin} came for bin {bin_id}")
        for name, value in self.described.items():
            found = assembler.metadata.get(name, "unnamed")
            if found != value:
                raise FormatMismatch(f"state of bin {bin_id} has {name} {found}, {value} is needed")
        if copy_of(assembler.metadata) is not None:
            self.copier.adopt(bin_id, assembler)
            return
        rows = assembler.rows()
        if list(rows.columns) != [SIZE]:
            raise FormatMismatch(f"state of bin {bin_id} has columns {list(rows.columns)}")
        if np.any(bins_of(rows.keys, self.bin_bits) != bin_id):
            raise StateCorrupt(f"objects for bin {bin_id} hold a key of another bin")
        joined = b"".join(assembler.timers())
        ends = [0, *np.cumsum(rows.columns[SIZE]).tolist()]
        if ends[-1] != len(joined):
            raise StateCorrupt(f"objects of bin {bin_id} have {len(joined)} bytes, not {ends[-1]}")
        states: dict[int, object] = {}
        for key, (start, end) in zip(rows.keys.tolist(), pairwise(ends), strict=True):
            states[key] = self._rows.decode(key, joined[start:end])
        if len(states) != len(rows):
            raise StateCorrupt(f"objects for bin {bin_id} hold a key twice")
        self._changes += 1
        self.copier.replaced(bin_id)
        self.delete(bin_id)
        self._rows.put(bin_id, states)
        self._rows.count_sample(len(joined), len(states))
        self._make_room()

    def delete(self, bin_id: int) -> None:
        """Forget the bin's objects."""
        self.copier.end(bin_id)
        self._rows.remove(bin_id, self._rows.members.get(bin_id, ()))
        if self.tier is not None:
            self.tier.forget(bin_id)

    def expect(self, bins: int) -> None:
        """Memory is found as it is needed."""

    def rest(self) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        if self.tier is not None:
            self.tier.clear()

    def rows(self, bin_id: int) -> int:
        """Number of keys of the bin."""
        resident = len(self._rows.members.get(bin_id, ()))
        return resident + (0 if self.tier is None else self.tier.away(bin_id))

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Number of keys of every bin."""
        return self._rows.per_bin() if self.tier is None else self.tier.rows_per_bin()

    def nbytes(self, bin_id: int) -> int:
        """Bytes of the bin, estimated: its keys times the mean encoding seen, and 100 a key."""
        return self._rows.estimate(self.rows(bin_id))

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """None: objects have no timers in this version."""
        return ()

    def set_timers(self, bin_id: int, timers: Sequence[bytes]) -> None:
        """Refuse timers.

        Raises:
            StateCorrupt: there are some.
        """
        if timers:
            raise StateCorrupt(f"vertex {self.vertex!r} has no timers, but its state names some")

    @property
    def stored_bytes(self) -> None:
        """None: objects differ in length."""
        return None

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Keys of these bins and their encoded objects.

        Raises:
            StateError: an object cannot be encoded, or OB3.
        """
        self._rows.require_whole()
        keys: list[int] = []
        for bin_id in bins.tolist():
            keys += self._rows.members.get(bin_id, ())
        values = np.empty(len(keys), dtype=np.object_)
        values[:] = self._rows.encoded(keys)
        numbers = np.array(keys, dtype=np.int64)
        return (
            (numbers, values) if self.tier is None else self.tier.with_away(bins, numbers, values)
        )

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Add objects that `stored_rows` gave.

        Raises:
            StateCorrupt: an object cannot be decoded, or its key is there already.
        """
        if self.tier is not None:
            self.tier.require_new(keys)
        states = self._objects.states
        for key, value in zip(keys.tolist(), values, strict=True):
            if key in states:
                raise StateCorrupt(f"key {key} of vertex {self.vertex!r} comes twice")
            states[key] = self._rows.decode(key, value)
            self._objects.came.append(key)
        self._note_members()
        self._rows.count_sample(sum(map(len, values)), len(values))
        self._make_room()

    @property
    def described(self) -> dict[str, str]:
        """What the chunks of its bins say of themselves."""
        (column,) = self.columns
        return {"vertex": self.vertex, "bins": str(self.bins), "object": column[1]}

    # What the copier asks for -------------------------------------------------------------------

    def keys_of(self, bin_id: int) -> list[int]:
        """All keys of the bin."""
        keys = list(self._rows.members.get(bin_id, ()))
        return keys if self.tier is None else keys + self.tier.away_rows(bin_id)[0].tolist()

    def encoded(self, keys: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
        """Each key and its encoded object; None for a key without one. Raises as `extract`."""
        self._rows.require_whole()
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[start : start + _KEYS_AT_ONCE]
            away = {} if self.tier is None else self.tier.peek(np.array(some, dtype=np.int64))
            for key in some:
                state = self._objects.states.get(key)
                yield key, away.get(key) if state is None else self._rows.encode(key, state)

    def write_encoded(self, bin_id: int, keys: Sequence[int], encoded: Sequence[bytes]) -> None:
        """Keep these objects of the bin in place of what there is of their keys.

        Raises:
            StateCorrupt: an object cannot be decoded; none was kept.
        """
        decode = self._rows.decode
        decoded = {key: decode(key, each) for key, each in zip(keys, encoded, strict=True)}
        if self.tier is not None:
            self.tier.remove(np.array(keys, dtype=np.int64))
        self._rows.put(bin_id, decoded)
        self._rows.count_sample(sum(map(len, encoded)), len(decoded))
        self._make_room()

    def remove(self, bin_id: int, keys: Sequence[int]) -> None:
        """Forget the objects of these keys of the bin, if there are any."""
        if self.tier is not None:
            self.tier.remove(np.array(keys, dtype=np.int64))
        self._rows.remove(bin_id, keys)

    def _note_members(self) -> None:
        """Enter keys that came and went into the sets of their bins (OW1 of `object_rows`)."""
        gone = self._rows.note_members()
        if gone and self.tier is not None:
            self.tier.cold.delete(np.array(gone, dtype=np.int64))

    def _make_room(self) -> None:
        if self.tier is not None:
            self.tier.make_room()
