"""State as a checkpoint has it, without the flow that it belongs to.

Flow: StoredVertex of a checkpoint -> [blank_store] -> a store that holds rows but applies none: the
way from stored rows to the chunks of a snapshot and back; a stored row -> [value_of] -> JSON.

Invariants
  SK1  A blank store has the vertex's columns, so that it takes and gives exactly what the flow's
       own store would.
  SK2  Objects stay encoded: none of the flow's classes is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Never

import msgspec
import numpy as np
import pyarrow as pa

from service.errors import FormatMismatch, StateCorrupt
from service.statestore import object_json
from service.statestore.checkpoint import StoredVertex
from service.statestore.columns import ColumnSpec
from service.statestore.hosted import HostedStore
from service.statestore.object_rows import OBJECTS, Objects, StateCodec
from service.statestore.object_store import ObjectStore
from service.statestore.row_format import RowFormat
from service.statestore.row_kinds import formats_of, rows_in, text_key_of
from service.statestore.row_store import RowStore
from service.statestore.row_table import RowTable
from service.statestore.stored_cells import cell_of, number_named
from service.statestore.text_store import KeyedStore, TextKeyedStore
from service.statestore.timed_states import WITH_TIMERS, split
from service.statestore.unapplied import Unapplied
from service.statestore.vertex_store import VertexStore

#: Name of the only column of a store of objects; its type is the codec's name.
_OBJECT = "object"


def blank_store(stored: StoredVertex, bin_bits: int) -> HostedStore:
    """An empty store for the vertex's rows (SK1).

    Raises:
        FormatMismatch: a column has a type that this version does not know.
    """
    key = text_key_of(stored.columns)
    if key is not None:
        return TextKeyedStore(_blank(behind_key(stored), bin_bits), key.name, key.type)
    return _blank(stored, bin_bits)


def _blank(stored: StoredVertex, bin_bits: int) -> KeyedStore:
    """A blank store whose keys are integers."""
    formats = formats_of(stored.columns)
    if formats is not None:
        return RowStore(stored.vertex, _NoRows(formats), bin_bits)
    codec = codec_of(stored)
    if codec is not None:
        encoded = StateCodec(codec, _as_it_is, _as_it_is)
        return ObjectStore(stored.vertex, _NoObjects(), bin_bits, encoded)
    columns = []
    for name, kind in stored.columns:
        if (known := number_named(kind)) is not None:
            columns.append(ColumnSpec(name, known.kept, 0, "" if known.plain else kind))
        else:
            raise FormatMismatch(
                f"vertex {stored.vertex!r} has a column {name!r} of type {kind!r}, which this "
                "version does not know; use the version that wrote it"
            )
    return VertexStore(stored.vertex, Unapplied(columns), bin_bits)


def codec_of(stored: StoredVertex) -> str | None:
    """Name of the codec of a vertex that keeps objects; None where it keeps columns."""
    if len(stored.columns) == 1:
        ((name, kind),) = stored.columns
        if name == _OBJECT and kind not in ("int64", "float64"):
            return kind
    return None


def value_of(stored: StoredVertex, value: bytes) -> object:
    """What a stored row keeps, columns by name or the object, ready for JSON.

    Of a vertex with keys that are text, `behind_key` of it and what stands behind the text.

    Raises:
        StateCorrupt: the row is no such row.
    """
    formats = formats_of(stored.columns)
    if formats is not None:
        return rows_in(value, formats)
    codec = codec_of(stored)
    if codec is not None:
        timed = state_and_timers(stored, value)
        if timed is not None:
            state, times = timed
            return {"state": state, "timers": times}
        return _object_of(stored, codec, value)
    if len(value) != 8 * (1 + len(stored.columns)):
        raise StateCorrupt(f"a row of vertex {stored.vertex!r} has {len(value)} bytes")
    cells = np.frombuffer(value, dtype="<i8")
    return {
        name: cell_of(cells[1 + index : 2 + index], kind)
        for index, (name, kind) in enumerate(stored.columns)
    }


def state_and_timers(stored: StoredVertex, value: bytes) -> tuple[object, list[int]] | None:
    """State and times of timers in what `ProcessStore` keeps of a key; None for other stores.

    Raises:
        StateCorrupt: the value is no such value.
    """
    codec = codec_of(stored)
    if codec is None or not codec.endswith(WITH_TIMERS):
        return None
    try:
        encoded, times = split(value)
    except (ValueError, struct.error) as error:
        raise StateCorrupt(f"a state of vertex {stored.vertex!r} is damaged: {error}") from error
    if encoded is None:
        return None, times
    return _object_of(stored, codec.removesuffix(WITH_TIMERS), encoded), times


def _object_of(stored: StoredVertex, codec: str, encoded: bytes) -> object:
    """An encoded object, ready for JSON; what another codec than ours encoded as its bytes."""
    if codec != OBJECTS.name:
        return {"type": f"bytes of {codec}", "value": encoded.hex()}
    try:
        return object_json.described(encoded)
    except ValueError as error:
        raise StateCorrupt(f"a state of vertex {stored.vertex!r} is {error}") from error


def behind_key(stored: StoredVertex) -> StoredVertex:
    """The same without the column of the key."""
    return msgspec.structs.replace(stored, columns=stored.columns[1:])


def _as_it_is(encoded: bytes) -> bytes:
    return bytes(encoded)


def _refuse() -> Never:
    raise AssertionError("a blank store applies no rows")


class _NoRows:
    """The program of a store of typed rows that only holds them; see `Unapplied`."""

    key = "key"

    def __init__(self, formats: Sequence[RowFormat]) -> None:
        self.formats = formats

    def apply_rows(self, table: RowTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """Refuse rows."""
        _refuse()


class _NoObjects:
    """The program of a store of objects that only holds them."""

    key = "key"

    def apply(
        self, objects: Objects, keys: list[int], rows: pa.RecordBatch, time: tuple[int, ...]
    ) -> pa.RecordBatch:
        """Refuse rows."""
        _refuse()
