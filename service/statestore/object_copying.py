"""Pieces of bins of Python objects.

Flow: `ObjectStore` -> [ObjectCopier]; see `copying` for the protocol.

A piece, little endian:
    objects u32 | gone u32 | keys i64 each | length of each object i64 | keys that are gone i64 |
    the encoded objects one after the other

In the chunks of what is left, keys, lengths and objects lie as in those of a whole bin.

Invariants
  OC1  A piece is decoded as a whole before anything of it is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import BinAssembler, encode_bin
from service.statestore.columns import Rows
from service.statestore.copying import BinCopier, Int64s
from service.statestore.place import Place

#: Name of the column that says how long each encoding is.
SIZE = "bytes"
#: Encodings are sent as entries of at most these bytes.
_ENTRY_BYTES = 1 << 19
_HEADER = struct.Struct("<II")


class ObjectsOfBins(Protocol):
    """What the copier asks of the store."""

    bin_bits: int
    #: Told the keys of a batch before it changes anything.
    changes: ChangedKeys | None

    def keys_of(self, bin_id: int) -> Sequence[int]:
        """All keys of the bin."""
        ...

    def encoded(self, keys: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
        """Each key and its encoded object; None for a key without one."""
        ...

    def write_encoded(self, bin_id: int, keys: Sequence[int], encoded: Sequence[bytes]) -> None:
        """Keep these objects of the bin in place of what there is of their keys."""
        ...

    def remove(self, bin_id: int, keys: Sequence[int]) -> None:
        """Forget the objects of these keys, if there are any."""
        ...

    def rows(self, bin_id: int) -> int:
        """Number of keys of the bin."""
        ...

    def delete(self, bin_id: int) -> None:
        """Forget the bin's objects."""
        ...

    @property
    def described(self) -> dict[str, str]:
        """What the chunks of its bins say of themselves."""
        ...


class ObjectCopier(BinCopier):
    """Copies bins of one vertex's objects."""

    def __init__(self, store: ObjectsOfBins) -> None:
        """Copy bins of `store`."""
        super().__init__(store.bin_bits)
        self._store = store

    def _notes_go_to(self, changes: ChangedKeys | None) -> None:
        self._store.changes = changes

    def _all_keys(self, bin_id: int) -> Int64s | None:
        return np.array(self._store.keys_of(bin_id), dtype=np.int64)

    def _scan(self, bin_id: int, place: Place, nbytes: int) -> bytes:
        raise AssertionError("objects are copied by their keys")

    def _read(self, keys: Int64s, nbytes: int) -> tuple[bytes, int]:
        there: list[int] = []
        objects: list[bytes] = []
        gone: list[int] = []
        told = length = 0
        for key, encoded in self._store.encoded(keys.tolist()):
            told += 1
            if encoded is None:
                gone.append(key)
            else:
                there.append(key)
                objects.append(encoded)
                length += len(encoded)
            if length + 16 * told >= nbytes:
                break
        lengths = np.array([len(each) for each in objects], dtype="<i8")
        parts = [
            _HEADER.pack(len(there), len(gone)),
            np.array(there, dtype="<i8").tobytes(),
            lengths.tobytes(),
            np.array(gone, dtype="<i8").tobytes(),
        ]
        return b"".join(parts + objects), told

    def _chunks_left(self, bin_id: int, number: int, cut: int) -> Iterator[bytes]:
        keys = self._copies[bin_id].keys
        encoded = [each for _, each in self._store.encoded(keys.tolist())]
        gone = np.array([each is None for each in encoded], dtype=np.bool_)
        objects = [each for each in encoded if each is not None]
        lengths = np.array([len(each or b"") for each in encoded], dtype=np.int64)
        metadata = {
            **self._store.described,
            **self._told(bin_id, number),
            "rows": str(self._store.rows(bin_id)),
        }
        rows = Rows(keys, -gone.astype(np.int64), {SIZE: lengths})
        self.end(bin_id)
        self._store.delete(bin_id)
        return encode_bin(bin_id, cut, rows, entries_of(objects), metadata)

    def _write(self, bin_id: int, piece: bytes | memoryview) -> None:
        what = f"a piece of bin {bin_id}"
        if len(piece) < _HEADER.size:
            raise StateCorrupt(f"{what} has {len(piece)} bytes")
        there, gone = _HEADER.unpack_from(piece)
        start = _HEADER.size + 8 * (2 * there + gone)
        if len(piece) < start:
            raise StateCorrupt(f"{what} with {there} objects has {len(piece)} bytes")
        numbers = np.frombuffer(piece, dtype="<i8", offset=_HEADER.size, count=2 * there + gone)
        keys, lengths = numbers[:there], numbers[there : 2 * there]
        self._keep(bin_id, what, keys, lengths, bytes(piece[start:]), numbers[2 * there :])

    def _complete(self, bin_id: int, assembler: BinAssembler) -> None:
        rows = assembler.rows()
        if list(rows.columns) != [SIZE]:
            raise StateCorrupt(f"state of bin {bin_id} has columns {list(rows.columns)}")
        gone = rows.versions < 0
        joined = b"".join(assembler.timers())
        what = f"what completes bin {bin_id}"
        lengths = rows.columns[SIZE].view(np.int64)
        self._keep(bin_id, what, rows.keys[~gone], lengths[~gone], joined, rows.keys[gone])
        found, expected = str(self._store.rows(bin_id)), assembler.metadata.get("rows")
        if found != expected:
            raise StateCorrupt(
                f"bin {bin_id} has {found} objects after its copy was completed; its old owner "
                f"had {expected}; nothing was installed"
            )

    def _forget_rows(self, bin_id: int) -> None:
        self._store.delete(bin_id)

    def _keep(
        self, bin_id: int, what: str, keys: Int64s, lengths: Int64s, joined: bytes, gone: Int64s
    ) -> None:
        for some in (keys, gone):
            if len(some) and np.any(bins_of(np.ascontiguousarray(some), self._bin_bits) != bin_id):
                raise StateCorrupt(f"{what} holds keys of another bin")
        ends = [0, *np.cumsum(lengths).tolist()]
        if ends[-1] != len(joined) or (len(lengths) and lengths.min() < 0):
            raise StateCorrupt(f"{what} has {len(joined)} bytes of objects, not {ends[-1]}")
        objects = [joined[start:end] for start, end in pairwise(ends)]
        self._store.write_encoded(bin_id, keys.tolist(), objects)
        self._store.remove(bin_id, gone.tolist())


def entries_of(objects: Sequence[bytes]) -> list[bytes]:
    """The encodings as one run of bytes, cut into entries of a chunk's last section but one."""
    joined = b"".join(objects)
    return [joined[at : at + _ENTRY_BYTES] for at in range(0, len(joined), _ENTRY_BYTES)]
