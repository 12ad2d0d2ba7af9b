"""Signatures of the kernels, written down so that they are compiled when they are imported.

Flow: each kernel that Python calls names its signature from here.

A kernel compiled at its first call would stall the stream for a second whenever an array of a new
kind came by: one that Arrow made (read-only), one with a single row (contiguous both ways). With
the signatures written down there is one version of each, loaded from numba's cache on import.
Inputs are declared read-only, which accepts both kinds.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core.typing.templates import Signature

from service.statestore._layout import Arena

# numba declares no types for the constructors of its types.
_types: Any = types

_void = _types.void
_bool = _types.boolean
_int = _types.int64
_ints = _types.Array(_int, 1, "C")
_ints_read = _types.Array(_int, 1, "C", readonly=True)
_floats = _types.Array(_types.float64, 1, "C")
_floats_read = _types.Array(_types.float64, 1, "C", readonly=True)
_lines = _types.Array(_int, 2, "C")
_lines_read = _types.Array(_int, 2, "C", readonly=True)
_small_ints = _types.Array(_types.int32, 1, "C")
_small_ints_read = _types.Array(_types.int32, 1, "C", readonly=True)
_bytes = _types.Array(_types.int8, 1, "C")
#: The fields of Arena, in order.
_arena = _types.NamedTuple((_lines, _bytes, _ints, _ints, _ints, _ints, _ints), Arena)
_done = _types.Tuple((_int, _bool))

# _regions
ALLOCATE: Signature = _int(_arena, _int)
RELEASE: Signature = _void(_arena, _int)
RETURNABLE: Signature = _int(_arena, _int, _lines)

# _kernels
TOUCH: Signature = _types.Tuple((_int, _int, _bool))(_arena, _int, _ints_read, _small_ints, _lines)
STORE: Signature = _void(_arena, _lines_read, _int, _int)
RESTORE: Signature = _void(_arena, _lines_read, _int)
REMOVE: Signature = _int(_arena, _int, _ints_read)
LOOKUP: Signature = _void(_arena, _int, _ints_read, _ints)
MARK: Signature = _void(_arena, _ints_read, _int)
EXTRACT: Signature = _int(_arena, _ints_read, _int, _lines)
APPEND: Signature = _done(_arena, _int, _lines_read)
RESERVE: Signature = _bool(_arena, _int, _int)
RESERVE_EACH: Signature = _bool(_arena, _ints_read, _ints_read)
RELEASE_EACH: Signature = _void(_arena, _ints_read)

# _whole_bins
TAKE_LINES: Signature = _void(_arena, _ints_read, _lines)
PUT_LINES: Signature = _types.UniTuple(_int, 3)(_arena, _int, _ints_read, _ints_read, _lines_read)

# _scans
SCAN: Signature = _types.Tuple((_int, _int))(_lines_read, _int, _int, _lines)
RUNS: Signature = _int(_lines_read, _ints_read, _ints_read, _ints)

# _tiers
_words = _types.Array(_types.uint64, 1, "C")
_words_read = _types.Array(_types.uint64, 1, "C", readonly=True)
_flags = _types.Array(_bool, 1, "C")
EVICT: Signature = _int(_arena, _ints_read, _ints_read, _ints_read, _ints, _lines)
FILL: Signature = _void(_arena, _lines, _ints_read, _lines_read)
UNREFER: Signature = _void(_arena, _ints_read, _ints_read)
CHANGED: Signature = _int(_arena, _ints_read, _lines)
ENTER: Signature = _void(_words, _ints_read)
MAY_HOLD: Signature = _void(_words_read, _ints_read, _flags)

# _folds
COUNT: Signature = _void(_small_ints_read, _ints)
ADD_INTEGERS: Signature = _bool(_small_ints_read, _ints_read, _ints, _small_ints)
ADD_FLOATS: Signature = _void(_small_ints_read, _floats_read, _floats)
KEEP_ONE: list[Signature] = [
    _void(_small_ints_read, _ints_read, _ints),
    _void(_small_ints_read, _floats_read, _floats),
]

# _window_kernels
ASSIGN: Signature = _int(_ints_read, _int, _int, _ints, _flags)
TUMBLE: Signature = _void(_ints_read, _int, _ints, _ints)
IDENTIFY: Signature = _void(_lines_read, _int, _int, _int, _ints)
MARK_OF: Signature = _void(_ints_read, _int, _ints)
CLAIM: Signature = _int(_small_ints_read, _ints_read, _lines_read, _int, _lines)
GATHER: Signature = _void(_lines_read, _ints_read, _lines)
NUMBER: Signature = _int(_ints_read, _small_ints, _small_ints, _ints)
FINGERPRINT: Signature = _void(_types.Array(_types.uint8, 1, "C", readonly=True), _ints_read, _ints)
SESSIONS: Signature = _int(_lines_read, _ints, _lines)
GROUP: Signature = _int(_lines_read, _small_ints, _small_ints, _ints)

#: For the kernels of tables that stand on an arena.
ARENA = _arena
