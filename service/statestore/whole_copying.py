"""Bins of stores that cannot tell pieces of them: nothing is copied ahead, the bin leaves whole.

Flow: any `HostedStore` -> [WholeBins]; see `copying` for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from service.statestore.changes import ChangedKeys
from service.statestore.chunk import BinAssembler
from service.statestore.copying import NO_KEYS, BinCopier, Int64s
from service.statestore.place import Place


class WholeBins(BinCopier):
    """Says at once that a copy is ready, and gives all of the bin at the cut."""

    def __init__(self, bin_bits: int, give_up: Callable[[int, int], Iterator[bytes]]) -> None:
        """Leave bins to `give_up(bin, cut)`, as the store's own does."""
        super().__init__(bin_bits)
        self._give_up = give_up

    def _notes_go_to(self, changes: ChangedKeys | None) -> None:
        """Note nothing."""

    def _all_keys(self, bin_id: int) -> Int64s | None:
        return NO_KEYS

    def _chunks_left(self, bin_id: int, number: int, cut: int) -> Iterator[bytes]:
        self.end(bin_id)
        return self._give_up(bin_id, cut)

    def _scan(self, bin_id: int, place: Place, nbytes: int) -> bytes:
        raise AssertionError("nothing is told ahead")

    def _read(self, keys: Int64s, nbytes: int) -> tuple[bytes, int]:
        raise AssertionError("nothing is told ahead")

    def _write(self, bin_id: int, piece: bytes | memoryview) -> None:
        raise AssertionError("nothing is told ahead")

    def _complete(self, bin_id: int, assembler: BinAssembler) -> None:
        raise AssertionError("nothing is told ahead")

    def _forget_rows(self, bin_id: int) -> None:
        raise AssertionError("nothing is told ahead")
