"""State of one stateful vertex on one slot as Python objects: key -> any object, in bins.

Flow: S applies batches -> [ObjectStore] -> an object program, row by row; a move is extract ->
chunks -> assembler -> install; a plain stop is a checkpoint, all as for `VertexStore`.

Objects are encoded by `object_codec`, which runs no code that the bytes name, or by two functions
of the user's, for objects that it does not take; what those run is the user's to judge.

All objects are in one dict, so that a row costs one lookup; which keys a bin has is kept beside it
and changes only with keys that come and go.

In the chunks of a bin the rows section lists keys and the length of each encoding; the encodings
follow each other as one run of bytes, cut into pieces that fit into entries of the timers section.

Invariants
  OB1  `extract` encodes at the call: later changes, in place too, are not seen (HS1).
  OB2  `install` decodes everything before the bin's old state is let go (HS2).
  OB3  After a batch that failed midway no state is given out any more (HS3).
  OB4  A state that cannot be encoded is found at the first batch that leaves one of its type, and
       otherwise by a sample of every `SAMPLE_ROWS` rows; at the latest when its bin moves.
  OB5  A bin's set has exactly those keys of the dict whose hash is the bin's.
Cost: encoding 1 to 2 us for a small object, in one step of the process for a whole bin; memory is
Python's, about 200 bytes a key beside the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore import object_codec
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import BinAssembler, encode_bin
from service.statestore.columns import Rows, numbers_of
from service.statestore.copying import copy_of
from service.statestore.hosted import StoredValues
from service.statestore.object_copying import SIZE, ObjectCopier, entries_of

#: Rows applied between two samples of the states' sizes.
SAMPLE_ROWS = 1 << 16
#: What a key takes beside its object: its places in the dict and in its bin's set, and itself.
_KEY_BYTES = 200


@dataclass(frozen=True, slots=True)
class StateCodec:
    """Two functions that turn a state into bytes and back, under a name kept with the bytes."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


#: The codec of this package.
OBJECTS = StateCodec("objects1", object_codec.encode, object_codec.decode)


@dataclass(slots=True)
class Objects:
    """What a program changes: the states of all bins, and a note of keys that came and went."""

    states: dict[int, object] = field(default_factory=dict)
    #: Keys that had no state when a row of theirs came; again each time.
    came: list[int] = field(default_factory=list)
    #: Keys whose state was removed, whether they had one or not.
    went: list[int] = field(default_factory=list)


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
        self._codec = codec
        self.bin_bits = bin_bits
        self.program = program
        self._objects = Objects()
        #: Bin -> its keys (OB5); bins without keys are left out.
        self._members: dict[int, set[int]] = {}
        #: Batches applied and bins installed.
        self._changes = 0
        #: False while a batch is applied, and for good after one that failed (OB3).
        self._whole = True
        #: Types of states that were encoded (OB4), and the mean length of the encodings seen.
        self._known: set[type] = set()
        self._sampled_bytes = 0
        self._samples = 0
        self._unsampled = 0
        #: Where keys are noted that a batch may change; None: nowhere.
        self.changes: ChangedKeys | None = None
        self.copier = ObjectCopier(self)

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        return 1 << self.bin_bits

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """One column, the object."""
        return (("object", self._codec.name),)

    @property
    def row_count(self) -> int:
        """Keys of all bins."""
        return len(self._objects.states)

    @property
    def total_nbytes(self) -> int:
        """Bytes of all bins, estimated as `nbytes` does."""
        return self._estimate(self.row_count)

    def state(self, key: int) -> object:
        """The state of a key, itself and no copy; None if there is none."""
        return self._objects.states.get(key)

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Run the program over a batch at `time`, its rows in order.

        Raises:
            UserFunctionError: a function of the flow raised; the state is lost to this process.
            StateError: a state that the batch left cannot be encoded (OB4), or OB3.
        """
        self._require_whole()
        self._whole = False
        self._changes += 1
        numbers = np.asarray(numbers_of(rows, self.program.key), dtype=np.int64)
        if self.changes is not None:
            self.changes.note(numbers)
        keys = numbers.tolist()
        outputs = self.program.apply(self._objects, keys, rows, time)
        self._note_members()
        self._whole = True
        if keys:
            self._sample(keys[-1], len(keys))
        return outputs

    def change_mark(self) -> int:
        """How often the state has changed: by a batch, or by a bin that was installed."""
        return self._changes

    def extract(self, bin_id: int, *, cut: int, keys: bytes = b"") -> Iterator[bytes]:
        """Chunks of the bin's objects as of `cut`, with what its `keys` have beside integers (OB1).

        Raises:
            StateError: an object cannot be encoded, or OB3.
        """
        listed, encoded = self._encoded(bin_id)
        lengths = np.array([len(each) for each in encoded], dtype=np.int64)
        rows = Rows(np.array(listed, dtype=np.int64), np.zeros_like(lengths), {SIZE: lengths})
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
            states[key] = self._decode(key, joined[start:end])
        if len(states) != len(rows):
            raise StateCorrupt(f"objects for bin {bin_id} hold a key twice")
        self._changes += 1
        self.copier.replaced(bin_id)
        self.delete(bin_id)
        self._objects.states.update(states)
        if states:
            self._members[bin_id] = set(states)
        self._count_sample(len(joined), len(states))

    def delete(self, bin_id: int) -> None:
        """Forget the bin's objects."""
        self.copier.end(bin_id)
        for key in self._members.pop(bin_id, ()):
            del self._objects.states[key]

    def rest(self) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Forget everything."""
        self._objects.states.clear()
        self._members.clear()

    def rows(self, bin_id: int) -> int:
        """Number of keys of the bin."""
        return len(self._members.get(bin_id, ()))

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Number of keys of every bin."""
        counts = np.zeros(self.bins, dtype=np.int64)
        for bin_id, keys in self._members.items():
            counts[bin_id] = len(keys)
        return counts

    def nbytes(self, bin_id: int) -> int:
        """Bytes of the bin, estimated: its keys times the mean encoding seen, and 100 a key."""
        return self._estimate(self.rows(bin_id))

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
        keys: list[int] = []
        encoded: list[bytes] = []
        for bin_id in bins.tolist():
            of_bin, objects = self._encoded(bin_id)
            keys += of_bin
            encoded += objects
        values = np.empty(len(encoded), dtype=np.object_)
        values[:] = encoded
        return np.array(keys, dtype=np.int64), values

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Add objects that `stored_rows` gave.

        Raises:
            StateCorrupt: an object cannot be decoded, or its key is there already.
        """
        states = self._objects.states
        for key, value in zip(keys.tolist(), values, strict=True):
            if key in states:
                raise StateCorrupt(f"key {key} of vertex {self.vertex!r} comes twice")
            states[key] = self._decode(key, value)
            self._objects.came.append(key)
        self._note_members()
        self._count_sample(sum(map(len, values)), len(values))

    @property
    def described(self) -> dict[str, str]:
        """What the chunks of its bins say of themselves."""
        (column,) = self.columns
        return {"vertex": self.vertex, "bins": str(self.bins), "object": column[1]}

    # What the copier asks for -------------------------------------------------------------------

    def keys_of(self, bin_id: int) -> list[int]:
        """All keys of the bin."""
        return list(self._members.get(bin_id, ()))

    def encoded(self, keys: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
        """Each key and its encoded object; None for a key without one. Raises as `extract`."""
        self._require_whole()
        for key in keys:
            state = self._objects.states.get(key)
            yield key, None if state is None else self._encode(key, state)

    def write_encoded(self, bin_id: int, keys: Sequence[int], encoded: Sequence[bytes]) -> None:
        """Keep these objects of the bin in place of what there is of their keys.

        Raises:
            StateCorrupt: an object cannot be decoded; none was kept.
        """
        decoded = {key: self._decode(key, each) for key, each in zip(keys, encoded, strict=True)}
        if decoded:
            self._objects.states.update(decoded)
            self._members.setdefault(bin_id, set()).update(decoded)
            self._count_sample(sum(map(len, encoded)), len(decoded))

    def remove(self, bin_id: int, keys: Sequence[int]) -> None:
        """Forget the objects of these keys of the bin, if there are any."""
        members = self._members.get(bin_id, set())
        for key in members.intersection(keys):
            members.discard(key)
            del self._objects.states[key]
        if not members:
            self._members.pop(bin_id, None)

    def _encoded(self, bin_id: int) -> tuple[list[int], list[bytes]]:
        self._require_whole()
        keys = list(self._members.get(bin_id, ()))
        states = self._objects.states
        encoded = [self._encode(key, states[key]) for key in keys]
        self._count_sample(sum(map(len, encoded)), len(encoded))
        return keys, encoded

    def _note_members(self) -> None:
        """Enter keys that came and went into the sets of their bins (OB5)."""
        changed = [*self._objects.came, *self._objects.went]
        if not changed:
            return
        self._objects.came.clear()
        self._objects.went.clear()
        states, members = self._objects.states, self._members
        bins = bins_of(np.array(changed, dtype=np.int64), self.bin_bits).tolist()
        for bin_id, key in zip(bins, changed, strict=True):
            if key in states:
                members.setdefault(bin_id, set()).add(key)
            elif bin_id in members:
                members[bin_id].discard(key)
                if not members[bin_id]:
                    del members[bin_id]

    def _encode(self, key: int, state: object) -> bytes:
        try:
            return self._codec.encode(state)
        except Exception as error:  # a codec of a user may raise anything
            raise StateError(
                f"the state of {self.vertex!r} for key {key}, a {type(state).__name__}, cannot be "
                f"encoded ({error}), so its bin could neither move nor be stored; keep plain "
                "values, containers, and objects of classes that a module defines, or give a codec"
            ) from error

    def _decode(self, key: int, encoded: bytes) -> object:
        try:
            return self._codec.decode(encoded)
        except Exception as error:  # as above
            raise StateCorrupt(
                f"the state of {self.vertex!r} for key {key} cannot be decoded "
                f"({type(error).__name__}: {error}); start the job with the code that wrote it"
            ) from error

    def _sample(self, key: int, rows: int) -> None:
        """OB4, by the state that the last row of a batch left."""
        self._unsampled += rows
        state = self._objects.states.get(key)
        kind = type(state)
        if state is None or (kind in self._known and self._unsampled < SAMPLE_ROWS):
            return
        self._count_sample(len(self._encode(key, state)), 1)
        self._known.add(kind)
        self._unsampled = 0

    def _count_sample(self, nbytes: int, objects: int) -> None:
        self._sampled_bytes += nbytes
        self._samples += objects

    def _estimate(self, keys: int) -> int:
        if not self._samples:
            return keys * _KEY_BYTES
        return keys * (_KEY_BYTES + self._sampled_bytes // self._samples)

    def _require_whole(self) -> None:
        if not self._whole:
            raise StateError(
                f"the state of {self.vertex!r} is that of half a batch, because a function of the "
                "flow raised; start the job again to go on from its last checkpoint"
            )
