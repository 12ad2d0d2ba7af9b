"""A bin copied to its next owner while it goes on changing: rounds, and what is left at the cut.

Flow: old owner: [BinCopier.begin] -> pieces -> frames outside of time; at the cut `leave` -> chunks
of what is left. New owner: pieces -> [BinCopier.stage] -> its store, under a bin that it does not
own yet; at the cut `adopt` with the chunks.

The first round is the whole bin, piece by piece; each further round is what has changed since the
one before began. A key that is told twice is simply written twice, so that pieces may be taken
between any two batches. The copy is exact only once the chunks of `leave` are in.

Invariants
  PC1  From `begin` on, a key that is not as it was told is noted as changed, or still to be told in
       this round.
  PC2  What `leave` gives is everything not told: what is left of the round, and what changed since
       it began. Keys that are gone are told as gone, by a version below zero.
  PC3  A piece is staged, and a bin adopted, only under the number of the copy that it belongs to; a
       piece of another number begins the bin anew.
  PC4  An adopted bin was told the very pieces that its old owner told, in their order, which a
       digest kept piece by piece says at the cut for nothing; and it has as many rows as the old
       owner counted. Otherwise nothing of it stays.
  PC5  A bin that is neither adopted nor staged further is dropped: nothing of it stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import BinAssembler
from service.statestore.place import Place

Int64s = NDArray[np.int64]

#: What the metadata of chunks says in `since` where they complete a copy.
_COPY = "copy "
#: And where it says the digest of what was told before.
_TOLD = "told"
NO_KEYS: Int64s = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class _Copy:
    """What is still to be told of one bin in this round."""

    #: None once the first round is through, or where it goes by keys.
    place: Place | None
    keys: Int64s = field(default_factory=lambda: NO_KEYS)
    #: Digest of all pieces told (PC4).
    told: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)


@dataclass(slots=True)
class _Staged:
    """What has been told of one bin."""

    number: int
    told: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)


def copy_of(metadata: dict[str, str]) -> int | None:
    """The number of the copy that chunks with this metadata complete; None for a whole bin.

    Raises:
        StateCorrupt: it is no number.
    """
    since = metadata.get("since", "")
    if not since.startswith(_COPY):
        return None
    number = since.removeprefix(_COPY)
    if not number.isdecimal():
        raise StateCorrupt(f"state of a bin completes copy {number!r}, which is no number")
    return int(number)


class BinCopier(ABC):
    """Both ends of copying bins of one store. Subclasses know what its rows look like."""

    def __init__(self, bin_bits: int) -> None:
        """Copy nothing."""
        self._bin_bits = bin_bits
        self._changes: ChangedKeys | None = None
        self._copies: dict[int, _Copy] = {}
        self._staged: dict[int, _Staged] = {}

    # At the old owner ---------------------------------------------------------------------------

    def begin(self, bin_id: int) -> None:
        """Copy the bin from now on; its first round is all of it (PC1)."""
        if self._changes is None:
            self._changes = ChangedKeys(self._bin_bits)
            self._notes_go_to(self._changes)
        self._changes.forget(bin_id)
        self._changes.follow(bin_id)
        keys = self._all_keys(bin_id)
        self._copies[bin_id] = _Copy(Place()) if keys is None else _Copy(None, keys)

    def is_copied(self, bin_id: int) -> bool:
        """Whether a copy of the bin was begun and has not ended."""
        return bin_id in self._copies

    def next_piece(self, bin_id: int, nbytes: int) -> bytes:
        """About `nbytes` of what is left of the round; b"" if nothing is."""
        copy = self._copies.get(bin_id)
        assert copy is not None, "PC1: the bin is copied"
        piece = b"" if copy.place is None else self._scan(bin_id, copy.place, nbytes)
        if not piece:
            copy.place = None
            if not len(copy.keys):
                return b""
            piece, told = self._read(copy.keys, nbytes)
            copy.keys = copy.keys[told:]
        copy.told.update(piece)
        return piece

    def changed(self, bin_id: int) -> int:
        """How many keys the next round would tell."""
        assert self._changes is not None, "PC1"
        return self._changes.count(bin_id)

    @property
    def changed_keys(self) -> int:
        """Changed keys of all bins, as `changed_in`. Cost: 3 us and 0.2 ns a bin."""
        return 0 if self._changes is None else self._changes.total

    def changed_in(self, bins: Collection[int]) -> int:
        """How many keys of all these bins have changed since they were told. Cost: O(bins)."""
        if self._changes is None:
            return 0
        counts: int = self._changes.counts()[np.fromiter(bins, np.int64, len(bins))].sum()
        return int(counts)

    def next_round(self, bin_id: int) -> None:
        """Begin to tell what changed since the last round began, with what is left of that."""
        copy = self._copies.get(bin_id)
        assert copy is not None, "PC1: the bin is copied"
        assert self._changes is not None, "PC1"
        changed = self._changes.take(bin_id)
        copy.keys = np.union1d(copy.keys, changed) if len(copy.keys) else changed

    def leave(self, bin_id: int, number: int, cut: int) -> Iterator[bytes]:
        """Chunks of what was not told (PC2); the bin is forgotten with the last of them.

        The bin must not change from the call on.
        """
        self.next_round(bin_id)
        return self._chunks_left(bin_id, number, cut)

    def end(self, bin_id: int) -> None:
        """Copy the bin no further; the bin stays as it is."""
        if self._copies.pop(bin_id, None) is None:
            return
        assert self._changes is not None, "PC1"
        if not self._changes.forget(bin_id):
            self._changes = None
            self._notes_go_to(None)

    # At the new owner ---------------------------------------------------------------------------

    def staged(self, bin_id: int) -> int | None:
        """The number of the copy that is staged of the bin; None if there is none."""
        staged = self._staged.get(bin_id)
        return None if staged is None else staged.number

    @property
    def staged_bins(self) -> int:
        """How many bins are staged."""
        return len(self._staged)

    def stage(self, bin_id: int, number: int, piece: bytes | memoryview) -> None:
        """Take a piece of copy `number` of a bin that is not owned (PC3).

        Raises:
            StateCorrupt: it holds keys of another bin, or is no piece.
        """
        staged = self._staged.get(bin_id)
        if staged is None or staged.number != number:
            self._forget_rows(bin_id)
            staged = self._staged[bin_id] = _Staged(number)
        self._write(bin_id, piece)
        staged.told.update(piece)

    def adopt(self, bin_id: int, assembler: BinAssembler) -> None:
        """Complete what is staged of a bin by the chunks that `leave` gave (PC4).

        Raises:
            StateCorrupt: what is staged is of another copy, or not what the old owner had.
        """
        number = copy_of(assembler.metadata)
        assert number is not None, "the chunks complete a copy"
        told = assembler.metadata.get(_TOLD, "")
        try:
            self._require_told(bin_id, number, int(told) if told.isdecimal() else -1)
            self._complete(bin_id, assembler)
        except StateCorrupt:
            self._forget_rows(bin_id)
            raise

    def _require_told(self, bin_id: int, number: int, told: int) -> None:
        """Take what is staged of a bin for its state, if it is what was told (PC4)."""
        staged = self._staged.pop(bin_id, None)
        if staged is None or staged.number != number:
            # The old owner told nothing before the cut, or this is not what it told.
            self._forget_rows(bin_id)
            staged = _Staged(number)
        found = staged.told.intdigest()
        if found != told:
            raise StateCorrupt(
                f"bin {bin_id} was told pieces of digest {found} before its copy was completed; "
                f"its old owner told {told}; nothing was installed"
            )

    def drop(self, bin_id: int) -> None:
        """Forget what is staged of the bin, if anything is (PC5)."""
        if self._staged.pop(bin_id, None) is not None:
            self._forget_rows(bin_id)

    def replaced(self, bin_id: int) -> None:
        """Note that the whole bin came after all: what was staged is gone."""
        self._staged.pop(bin_id, None)

    def _told(self, bin_id: int, number: int) -> dict[str, str]:
        """What the metadata of chunks says that complete copy `number` of the bin (PC4)."""
        told = self._copies[bin_id].told.intdigest()
        return {"since": f"{_COPY}{number}", _TOLD: str(told)}

    # What a kind of state does ------------------------------------------------------------------

    @abstractmethod
    def _notes_go_to(self, changes: ChangedKeys | None) -> None:
        """Let the store note changed keys there, or nowhere."""

    @abstractmethod
    def _all_keys(self, bin_id: int) -> Int64s | None:
        """The keys of the first round; None where `_scan` goes through the bin."""

    @abstractmethod
    def _scan(self, bin_id: int, place: Place, nbytes: int) -> bytes:
        """The next piece of the first round, moving `place`; b"" behind the last."""

    @abstractmethod
    def _read(self, keys: Int64s, nbytes: int) -> tuple[bytes, int]:
        """A piece that tells the first of `keys` as they are now, and how many it tells."""

    @abstractmethod
    def _chunks_left(self, bin_id: int, number: int, cut: int) -> Iterator[bytes]:
        """The chunks of `leave`; ends the copy and forgets the bin before the last."""

    @abstractmethod
    def _write(self, bin_id: int, piece: bytes | memoryview) -> None:
        """Write a piece over what there is of the bin."""

    @abstractmethod
    def _complete(self, bin_id: int, assembler: BinAssembler) -> None:
        """Write what the chunks tell, and check the whole (PC4)."""

    @abstractmethod
    def _forget_rows(self, bin_id: int) -> None:
        """Forget the bin's state."""
