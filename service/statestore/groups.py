"""Small bins of a table that leave and come together: one chunk for many.

Flow: S at the old owner -> [BinGroups.give_up] -> a chunk on the state channel -> [BinGroups.read]
-> S looks whether all of its bins are due -> [BinGroups.install] at the new one.

A bin on its own costs 0.2 ms beside its rows, in messages and calls; so do a few hundred together.
A bin with timers, a large one, and one whose rows are not all in memory leave on their own.

A chunk, little endian:
    magic "MPBG" | format u8 | 0 x3 | bins u32 | rows u32 | cut i64 | words u32 | 0 u32 |
    words: JSON of what the state is of | 0 to a multiple of 8 | (bin i64, rows i64) each |
    a line each of keys, versions and state columns, bin by bin | xxh3-128 of all before

Invariants
  GB1  A chunk holds all rows of each of its bins, and the bins are forgotten when it was made.
  GB2  Its digest covers everything before it; nothing is installed of a chunk that is damaged, of
       another vertex, number of bins or columns, or that has a key of another bin or one twice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from service.errors import FormatMismatch, StateCorrupt
from service.hashing import bins_of
from service.statestore.arena import Int64s, KeyedTable
from service.statestore.copying import BinCopier

_MAGIC = b"MPBG"
_FORMAT = 1
_HEADER = struct.Struct("<4sB3xIIqI4x")
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class BinGroup:
    """What a chunk holds."""

    cut: int
    bins: list[int]
    #: Rows of each bin.
    counts: Int64s
    #: Lines of keys, versions and state columns, bin by bin.
    lines: Int64s


def is_group(chunk: bytes) -> bool:
    """Whether a chunk is of several bins."""
    return chunk[:4] == _MAGIC


class BinGroups:
    """Both ends, for one vertex's table."""

    def __init__(
        self,
        vertex: str,
        table: KeyedTable,
        copier: BinCopier,
        timer_bytes: Callable[[int], int],
        reach: Callable[[NDArray[np.int64]], None],
    ) -> None:
        """Give up and install bins of `table`.

        Args:
            vertex: whose state it is.
            table: has all of its rows in memory.
            copier: forgets what it staged of bins that come.
            timer_bytes: of a bin.
            reach: told the versions that came.
        """
        self._table = table
        self._copier = copier
        self._timer_bytes = timer_bytes
        self._reach = reach
        columns = [[spec.name, spec.described] for spec in table.columns]
        words = json.dumps({"vertex": vertex, "bins": table.bins, "columns": columns}).encode()
        self._words = words + bytes(-(len(words) + _HEADER.size) % 8)
        self._lines = 2 + len(table.columns)

    def nbytes(self, bin_id: int) -> int | None:
        """Bytes of the bin in a chunk; None if it leaves on its own."""
        if self._timer_bytes(bin_id) or self._copier.is_copied(bin_id):
            return None
        return 16 + 8 * self._lines * self._table.rows(bin_id)

    def give_up(self, bins: Sequence[int], *, cut: int) -> bytes:
        """All rows of `bins`, which have an `nbytes`, as of `cut`; they are forgotten (GB1)."""
        numbers = np.fromiter(bins, np.int64, len(bins))
        lines, counts = self._table.take_out(numbers)
        header = _HEADER.pack(_MAGIC, _FORMAT, len(bins), lines.shape[1], cut, len(self._words))
        each = np.stack((numbers, counts), axis=1)
        content = b"".join((header, self._words, each.tobytes(), lines.tobytes()))
        return content + xxhash.xxh3_128_digest(content)

    def read(self, chunk: bytes) -> BinGroup:
        """What a chunk holds; its arrays share the chunk's bytes.

        Raises:
            StateCorrupt, FormatMismatch: GB2, but for the keys.
        """
        if len(chunk) < _HEADER.size + _DIGEST_BYTES:
            raise StateCorrupt(f"a chunk of several bins has {len(chunk)} bytes")
        _, version, bins, rows, cut, words = _HEADER.unpack_from(chunk)
        if version != _FORMAT:
            raise FormatMismatch(
                f"a chunk of several bins has format {version}, this version reads {_FORMAT}"
            )
        content = memoryview(chunk)[:-_DIGEST_BYTES]
        if xxhash.xxh3_128_digest(content) != chunk[-_DIGEST_BYTES:]:
            raise StateCorrupt(
                "a chunk of several bins does not match its digest; nothing was installed"
            )
        start = _HEADER.size + words
        if content[_HEADER.size : start] != self._words:
            raise FormatMismatch(
                f"state is of {bytes(content[_HEADER.size : start])!r}, {self._words!r} is needed"
            )
        behind = start + 16 * bins
        if len(content) != behind + 8 * self._lines * rows:
            raise StateCorrupt(f"a chunk of {bins} bins and {rows} rows has {len(chunk)} bytes")
        each = np.frombuffer(content[start:behind], dtype="<i8").reshape(bins, 2)
        lines = np.frombuffer(content[behind:], dtype="<i8").reshape(self._lines, rows)
        return BinGroup(cut, each[:, 0].tolist(), np.ascontiguousarray(each[:, 1]), lines)

    def install(self, group: BinGroup) -> None:
        """Replace the bins' rows, or fail and leave the bins without rows (GB2).

        Raises:
            StateCorrupt: a key is of another bin or comes twice.
            StateError: the reserved address space is used up.
        """
        numbers = np.array(group.bins, dtype=np.int64)
        if group.lines.shape[1] != group.counts.sum() or np.any(
            bins_of(group.lines[0], self._table.bin_bits) != np.repeat(numbers, group.counts)
        ):
            raise StateCorrupt("a chunk of several bins holds keys of another bin")
        for bin_id in group.bins:
            self._copier.drop(bin_id)
        self._table.put_in(numbers, group.counts, group.lines)
        self._reach(group.lines[1])
