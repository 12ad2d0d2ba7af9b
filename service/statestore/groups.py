"""Small bins of a table that leave and come together: one chunk for many.

Flow: S at the old owner -> [BinGroups.give_up] -> a chunk on the state channel -> [BinGroups.read]
-> S looks whether all of its bins are due -> [BinGroups.install] at the new one.

A bin on its own costs 0.2 ms beside its rows, in messages and calls; so do a few hundred together.
A bin with timers, a large one, and one whose rows are not all in memory leave on their own. Bins
that were copied before leave together as well, with what is left of them.

A chunk, little endian:
    magic "MPBG" | format u8 | 0 x3 | bins u32 | rows u32 | cut i64 | words u32 | copy u32 |
    words: JSON of what the state is of | 0 to a multiple of 8 |
    of each bin: bin i64, rows i64; where a copy is completed also rows in all i64, told u64 |
    a line each of keys, versions and state columns, bin by bin | xxh3-128 of all before
copy is 0 where the bins are whole.

Invariants
  GB1  A chunk holds all rows of each of its bins, or all that was not told of them (PC2), and the
       bins are forgotten when it was made.
  GB2  Its digest covers everything before it; nothing is installed of a chunk that is damaged, of
       another vertex, number of bins or columns, or that has a key of another bin or one twice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xxhash

from service.errors import FormatMismatch, StateCorrupt
from service.statestore.arena import Int64s, KeyedTable

_MAGIC = b"MPBG"
_FORMAT = 2
_HEADER = struct.Struct("<4sB3xIIqII")
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
    #: The copy that it completes, and what else is known of each bin then.
    copy: int = 0
    rows: Int64s | None = None
    told: Int64s | None = None


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is left of several bins that were copied, in ascending order."""

    bins: Int64s
    #: Of each bin: its lines here, its rows in all, and the digest of what was told (PC4) as bits.
    counts: Int64s
    rows: Int64s
    told: Int64s
    #: Lines of keys, versions and state columns, bin by bin; a key that is gone has version -1.
    lines: Int64s


class GroupCopier(Protocol):
    """What knows of copied bins of a table, as `TableCopier` does."""

    def is_copied(self, bin_id: int) -> bool:
        """Whether a copy of the bin was begun and has not ended."""
        ...

    def drop(self, bin_id: int) -> None:
        """Forget what is staged of the bin, if anything is."""
        ...

    def remainder_nbytes(self, bin_id: int) -> int | None:
        """Bytes of what is left of the bin; None while its first round is not through."""
        ...

    def leave_together(self, bins: Sequence[int]) -> Remainder:
        """What was not told of these bins, which are forgotten."""
        ...

    def adopt_together(self, number: int, remainder: Remainder) -> None:
        """Complete copy `number` of several bins."""
        ...


def is_group(chunk: bytes) -> bool:
    """Whether a chunk is of several bins."""
    return chunk[:4] == _MAGIC


class BinGroups:
    """Both ends, for one vertex's table."""

    def __init__(
        self,
        vertex: str,
        table: KeyedTable,
        copier: GroupCopier,
        timer_bytes: Callable[[int], int],
        reach: Callable[[Int64s], None],
    ) -> None:
        """Give up and install bins of `table`.

        Args:
            vertex: whose state it is.
            table: has all of its rows in memory.
            copier: knows what is left of bins that were copied.
            timer_bytes: of a bin.
            reach: told versions that came, the greatest among them.
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
        """Bytes of the bin in a chunk of whole bins; None if it leaves on its own."""
        if self._timer_bytes(bin_id) or self._copier.is_copied(bin_id):
            return None
        return 16 + 8 * self._lines * self._table.rows(bin_id)

    def nbytes_left(self, bin_id: int) -> int | None:
        """Bytes of a copied bin in a chunk of what is left; None if it leaves on its own."""
        left = None if self._timer_bytes(bin_id) else self._copier.remainder_nbytes(bin_id)
        return None if left is None else 32 + left

    def give_up(self, bins: Sequence[int], *, cut: int) -> bytes:
        """All rows of `bins`, which have an `nbytes`, as of `cut`; they are forgotten (GB1)."""
        numbers = np.fromiter(bins, np.int64, len(bins))
        lines, counts = self._table.take_out(numbers)
        return self._chunk(np.stack((numbers, counts), axis=1), lines, cut, 0)

    def leave(self, bins: Sequence[int], copy: int, *, cut: int) -> bytes:
        """What was not told of `bins` under `copy` > 0, which have an `nbytes_left` (GB1)."""
        left = self._copier.leave_together(bins)
        each = np.stack((left.bins, left.counts, left.rows, left.told), axis=1)
        return self._chunk(each, left.lines, cut, copy)

    def _chunk(self, each: Int64s, lines: Int64s, cut: int, copy: int) -> bytes:
        header = _HEADER.pack(
            _MAGIC, _FORMAT, len(each), lines.shape[1], cut, len(self._words), copy
        )
        parts = (header, self._words, np.ascontiguousarray(each).data, lines.data)
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(part)
        return b"".join((*parts, digest.digest()))

    def read(self, chunk: bytes) -> BinGroup:
        """What a chunk holds; its arrays share the chunk's bytes.

        Raises:
            StateCorrupt, FormatMismatch: GB2, but for the keys.
        """
        if len(chunk) < _HEADER.size + _DIGEST_BYTES:
            raise StateCorrupt(f"a chunk of several bins has {len(chunk)} bytes")
        _, version, bins, rows, cut, words, copy = _HEADER.unpack_from(chunk)
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
        width = 4 if copy else 2
        behind = start + 8 * width * bins
        if len(content) != behind + 8 * self._lines * rows:
            raise StateCorrupt(f"a chunk of {bins} bins and {rows} rows has {len(chunk)} bytes")
        each = np.frombuffer(content[start:behind], dtype="<i8").reshape(bins, width)
        lines = np.frombuffer(content[behind:], dtype="<i8").reshape(self._lines, rows)
        numbers, *others = np.ascontiguousarray(each.T)
        return BinGroup(cut, numbers.tolist(), others[0], lines, copy, *others[1:])

    def install(self, group: BinGroup) -> None:
        """Replace the bins' rows, or complete their copies, or fail and leave them without rows.

        Raises:
            StateCorrupt: a key is of another bin or comes twice, or PC4 (GB2).
            StateError: the reserved address space is used up.
        """
        numbers = np.array(group.bins, dtype=np.int64)
        if group.copy:
            assert group.rows is not None, "as it was read"
            assert group.told is not None, "as it was read"
            left = Remainder(numbers, group.counts, group.rows, group.told, group.lines)
            self._copier.adopt_together(group.copy, left)
            return
        for bin_id in group.bins:
            self._copier.drop(bin_id)
        self._reach(np.array([self._table.put_in(numbers, group.counts, group.lines)]))
