"""State as a checkpoint has it, without the flow that it belongs to.

Flow: StoredVertex of a checkpoint -> [blank_store] -> a store that holds rows but applies none: the
way from stored rows to the chunks of a snapshot and back; a stored row -> [value_of] -> JSON.

Invariants
  SK1  A blank store has the vertex's columns, so that it takes and gives exactly what the flow's
       own store would.
  SK2  Objects stay encoded: none of the flow's classes is needed. So do rows of other kinds, as
       their stores alone know what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Never

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.statestore import object_json
from service.statestore.arena import KeyedTable
from service.statestore.checkpoint import StoredVertex
from service.statestore.columns import ColumnSpec, Values
from service.statestore.hosted import HostedStore
from service.statestore.number_types import NumberType, number_type
from service.statestore.object_store import OBJECTS, Objects, ObjectStore, StateCodec
from service.statestore.vertex_store import VertexStore

#: Name of the only column of a store of objects; its type is the codec's name.
_OBJECT = "object"
#: Stands in for a codec where rows are neither numbers nor objects: typed rows, and text as a key.
_ROWS = "rows"


def blank_store(stored: StoredVertex, bin_bits: int) -> HostedStore:
    """An empty store for the vertex's rows (SK1)."""
    codec = codec_of(stored)
    numbers = _numbers_of(stored)
    if codec is None and numbers is not None:
        columns = [
            ColumnSpec(name, number.kept, 0, "" if number.plain else kind)
            for (name, kind), number in zip(stored.columns, numbers, strict=True)
        ]
        return VertexStore(stored.vertex, _NoProgram(columns), bin_bits)
    encoded = StateCodec(codec or _ROWS, _as_it_is, _as_it_is)
    return ObjectStore(stored.vertex, _NoObjects(), bin_bits, encoded)


def codec_of(stored: StoredVertex) -> str | None:
    """Name of the codec of a vertex that keeps objects; None where it keeps columns."""
    if len(stored.columns) == 1:
        ((name, kind),) = stored.columns
        if name == _OBJECT and kind not in ("int64", "float64"):
            return kind
    return None


def value_of(stored: StoredVertex, value: bytes) -> object:
    """What a stored row keeps, columns by name or the object, ready for JSON.

    Raises:
        StateCorrupt: the row is no such row.
    """
    codec = codec_of(stored)
    if codec is not None:
        if codec != OBJECTS.name:
            return {"type": f"bytes of {codec}", "value": value.hex()}
        try:
            return object_json.described(value)
        except ValueError as error:
            raise StateCorrupt(f"a state of vertex {stored.vertex!r} is {error}") from error
    numbers = _numbers_of(stored)
    if numbers is None:
        return {"type": "stored row", "value": value.hex()}
    if len(value) != 8 * (1 + len(stored.columns)):
        raise StateCorrupt(f"a row of vertex {stored.vertex!r} has {len(value)} bytes")
    cells = np.frombuffer(value, dtype="<i8")[1:].astype(np.int64)
    return {
        name: object_json.plain(
            number.narrowed(cells[place : place + 1].view(number.kept))[0].as_py()
        )
        for place, ((name, _), number) in enumerate(zip(stored.columns, numbers, strict=True))
    }


def _numbers_of(stored: StoredVertex) -> list[NumberType] | None:
    """How the columns of an arena's vertex are kept; None where rows are something else."""
    found = []
    for _, kind in stored.columns:
        try:
            number = number_type(pa.type_for_alias(kind))
        except ValueError:
            return None
        if number is None:
            return None
        found.append(number)
    return found


def _as_it_is(encoded: bytes) -> bytes:
    return bytes(encoded)


def _refuse() -> Never:
    raise AssertionError("a blank store applies no rows")


class _NoProgram:
    """The program of a store that only holds rows."""

    def __init__(self, columns: Sequence[ColumnSpec]) -> None:
        self.state_columns = columns

    def apply(
        self,
        table: KeyedTable,
        keys: NDArray[np.int64],
        values: Mapping[str, Values],
        version: int,
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """Refuse rows."""
        _refuse()

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """Refuse rows."""
        _refuse()


class _NoObjects:
    """The same for a store of objects."""

    key = "key"

    def apply(
        self, objects: Objects, keys: list[int], rows: pa.RecordBatch, time: tuple[int, ...]
    ) -> pa.RecordBatch:
        """Refuse rows."""
        _refuse()
