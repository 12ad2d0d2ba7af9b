"""What S asks of the state it hosts, whatever that state is made of.

Flow: StateHost, checkpoint -> [HostedStore], which is a `VertexStore` (columns in an arena, changed
by kernels) or an `ObjectStore` (any Python object under each key). Neither side knows the other.

Invariants every store keeps
  HS1  `extract` copies at the call; what it yields does not see later changes.
  HS2  `install` deletes the bin's state first, and leaves the bin as it was if it fails.
  HS3  State goes out of a store only as it is between two batches, never from the middle of one.
  HS4  `give_up` reads the bin as its chunks are taken; its caller lets nothing change the bin from
       the call on. The bin is forgotten before the last chunk is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.chunk import BinAssembler
from service.statestore.copying import BinCopier
from service.statestore.groups import BinGroups

#: Encoded rows of state in a checkpoint: all of one length as `void`, or bytes as objects.
StoredValues = NDArray[np.void] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows as checkpoints and databases keep them."""

    keys: NDArray[np.int64]
    #: Of the last change of each; 0 where the store counts none.
    versions: NDArray[np.int64]
    values: StoredValues

    def __len__(self) -> int:
        return len(self.keys)


class WrittenStore(Protocol):
    """What `write_checkpoint` asks of a store; of one that goes on changing, copies give it."""

    vertex: str
    bin_bits: int

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        ...

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of what is kept for a key."""
        ...

    def rows(self, bin_id: int) -> int:
        """Keys of the bin."""
        ...

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Keys of every bin."""
        ...

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """The bin's timer entries, in the order given."""
        ...

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Keys of these bins, bin by bin, and what a checkpoint keeps of each."""
        ...


class HostedStore(Protocol):
    """State of one vertex on one slot, in 2**bin_bits bins."""

    vertex: str
    bin_bits: int

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        ...

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of what is kept for a key; a checkpoint of other columns is refused."""
        ...

    @property
    def row_count(self) -> int:
        """Keys of all bins."""
        ...

    @property
    def total_nbytes(self) -> int:
        """Bytes of all bins; an estimate where objects are kept."""
        ...

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Change the state by a batch at `time`, and return what it gives; perhaps no rows."""
        ...

    def change_mark(self) -> int:
        """A counter that rises with every change, so that later changes can be told from earlier.

        It is the store's own: it says nothing about epochs, nor about another store.
        """
        ...

    def extract(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's state as of `cut` (HS1, HS3)."""
        ...

    def give_up(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's state as of `cut`, which is forgotten with the last (HS3, HS4)."""
        ...

    @property
    def copier(self) -> BinCopier:
        """Copies bins to their next owner before they move."""
        ...

    @property
    def groups(self) -> BinGroups | None:
        """Small bins that leave and come together; None where each leaves on its own."""
        ...

    def assembler(self, bin_id: int) -> BinAssembler:
        """An assembler for chunks of the bin; feed it, then `install`."""
        ...

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's state by what a complete assembler holds (HS2).

        Chunks of `BinCopier.leave` complete what was staged instead.
        """
        ...

    def delete(self, bin_id: int) -> None:
        """Forget the bin's state."""
        ...

    def expect(self, bins: int) -> None:
        """Told that so many bins are about to come: memory for them can be found meanwhile."""
        ...

    def rest(self) -> None:
        """Told about once a second: memory kept for bins that may come can go after a while."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def rows(self, bin_id: int) -> int:
        """Keys of the bin."""
        ...

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Keys of every bin."""
        ...

    def nbytes(self, bin_id: int) -> int:
        """Bytes that the bin takes; an estimate where objects are kept."""
        ...

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """The bin's timer entries, in the order given."""
        ...

    def set_timers(self, bin_id: int, timers: Sequence[bytes]) -> None:
        """Replace the bin's timer entries."""
        ...

    @property
    def stored_bytes(self) -> int | None:
        """Length of what a checkpoint keeps of each key; None if lengths differ."""
        ...

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Keys of these bins, bin by bin, and what a checkpoint keeps of each (HS3)."""
        ...

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Add keys that are not there, from what `stored_rows` gave.

        Raises:
            StateCorrupt: a value cannot be decoded, or a key is there already.
        """
        ...
