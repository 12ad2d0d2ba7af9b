"""Signatures of the kernels for typed rows and timers, written down for the reason in _signatures.

Flow: each kernel of _row_cells, _row_heap, _best_rows and _timer_heap names its signature from
here.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core.typing.templates import Signature

from service.statestore._signatures import ARENA

# numba declares no types for the constructors of its types.
_types: Any = types

_void = _types.void
_bool = _types.boolean
_int = _types.int64
_ints = _types.Array(_int, 1, "C")
_ints_read = _types.Array(_int, 1, "C", readonly=True)
_lines = _types.Array(_int, 2, "C")
_lines_read = _types.Array(_int, 2, "C", readonly=True)
_small_ints_read = _types.Array(_types.int32, 1, "C", readonly=True)
_bytes = _types.Array(_types.uint8, 1, "C")
_bytes_read = _types.Array(_types.uint8, 1, "C", readonly=True)
_unsigned = [_types.uint8, _types.uint16, _types.uint32, _types.uint64]

# _row_cells
SCATTER: list[Signature] = [
    _void(
        _types.Array(kind, 1, "C", readonly=True),
        _int,
        _ints_read,
        _int,
        _int,
        _types.Array(kind, 1, "C"),
    )
    for kind in _unsigned
]
GATHER: list[Signature] = [
    _void(
        _types.Array(kind, 1, "C", readonly=True),
        _ints_read,
        _int,
        _int,
        _int,
        _types.Array(kind, 1, "C"),
    )
    for kind in _unsigned
]
SET_NULLS: Signature = _void(_bytes_read, _ints_read, _int, _int, _ints)
VALID_OF: Signature = _int(_ints_read, _ints_read, _int, _int, _bytes)
PUT_TEXTS: Signature = _void(_bytes_read, _ints_read, _ints_read, _ints, _int, _ints)
TEXT_ENDS: Signature = _void(_ints_read, _ints_read, _int, _ints)
TAKE_TEXTS: Signature = _void(_ints_read, _bytes_read, _ints_read, _int, _ints_read, _bytes)
COMPARE_TEXTS: Signature = _void(
    _ints_read, _bytes_read, _ints_read, _int, _bytes_read, _ints_read, _ints_read, _bytes
)
CHECK: Signature = _int(_ints_read, _ints_read, _lines_read, _lines_read, _ints_read)

# _row_heap
MAKE_ROOM: Signature = _bool(ARENA, ARENA, _ints, _int, _int, _ints_read, _ints_read, _ints)
ADD: Signature = _void(
    ARENA, _ints, _int, _int, _lines, _small_ints_read, _ints_read, _ints_read, _ints_read, _lines
)
CHAINS_AT: Signature = _void(ARENA, _ints_read, _int, _lines)
WALK: Signature = _void(ARENA, _ints_read, _int, _ints_read, _lines_read, _lines)
RETAIN: Signature = _void(ARENA, _ints, _int, _int, _lines, _int, _small_ints_read, _bytes_read)
MEASURE: Signature = _types.Tuple((_int, _int))(ARENA, ARENA, _ints_read, _int, _ints_read, _int)
COPY_OUT: Signature = _void(ARENA, ARENA, _ints_read, _int, _ints_read, _int, _lines, _ints, _ints)
PLACE: Signature = _void(ARENA, _ints, _int, _ints_read, _lines_read, _ints_read, _lines)
SHRINK: Signature = _void(ARENA, ARENA, _ints, _int, _ints_read)

# _best_rows
OFFER: Signature = _types.Array(_int, 2, "C")(
    ARENA,
    ARENA,
    _ints,
    _int,
    _int,
    _ints_read,
    _ints_read,
    _ints_read,
    _ints_read,
    _ints_read,
    _lines_read,
    _bytes,
)
PUT_AT: Signature = _void(ARENA, ARENA, _ints, _int, _lines_read, _ints_read, _ints_read)

# _timer_heap
SET_TIMERS: Signature = _bool(ARENA, _int, _ints_read, _ints_read, _ints_read, _int, _int, _ints)
POP_TIMERS: Signature = _int(ARENA, _ints_read, _int, _lines, _ints)
SETTLE_TIMERS: Signature = _void(ARENA, _int, _ints)
