"""One key in stored state: which entries are its, and what they keep.

Flow: KEY of the command line -> [wanted_key] -> its bin -> the bin's rows -> [kept_of] -> a value
or windows -> `megaphone state get`.

Keys that are text are found by their text, in full: two keys with one hash are told apart, and the
id under which a table kept the key does not matter (TK1 of `text_keys`).

Invariants
  SY1  What is told of a key is that key's alone.
Cost: a comparison for each entry of the bin.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from service.errors import UsageError
from service.hashing import bins_of
from service.statestore.checkpoint import StoredVertex
from service.statestore.contents import StoredRows
from service.statestore.open_windows import (
    OpenWindow,
    entries_of_key,
    keeps_panes,
    mark_of,
    of_object,
    of_panes,
    of_rows,
)
from service.statestore.row_format import RowFormat
from service.statestore.row_kinds import as_json, formats_of, rows_in, split_text, text_key_of
from service.statestore.stored_kinds import behind_key, state_and_timers, value_of
from service.statestore.text_keys import key_hashes
from service.statestore.timers import timers_in

_INTEGER = re.compile(r"[+-]?[0-9]+")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A key that is looked for."""

    #: As the answer names it.
    shown: object
    #: The key, or the hash of its text: what says its bin.
    number: int
    #: How the stored entries of a key that is text begin; None of integers.
    begins: bytes | None = None

    def bin(self, bin_bits: int) -> int:
        """Its bin."""
        return int(bins_of(np.array([self.number], np.int64), bin_bits)[0])


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a key: one of the two, the other unset."""

    value: object = msgspec.UNSET
    windows: tuple[OpenWindow, ...] | msgspec.UnsetType = msgspec.UNSET


def wanted_key(stored: StoredVertex, key: str) -> WantedKey:
    """The key that the text names, of a vertex with keys of its type.

    Bytes are named by their text in UTF-8.

    Raises:
        UsageError: the vertex has keys of int64, and it is none; or it is text and no UTF-8.
    """
    field = text_key_of(stored.columns)
    if field is None:
        number = int(key) if _INTEGER.fullmatch(key) else None
        if number is None or not -(1 << 63) <= number < 1 << 63:
            raise UsageError(f"key {key!r} is no int64, which the keys of {stored.vertex!r} are")
        return WantedKey(number, number)
    # What a shell gives that is no UTF-8 Python has as surrogates.
    content = key.encode("utf-8", "surrogateescape")
    is_bytes = pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
    try:
        array = pa.array([content if is_bytes else content.decode()], field.type)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"key {content!r} is no UTF-8, which the keys of {stored.vertex!r} are"
        ) from error
    cells = RowFormat(pa.schema([("key", field.type)])).encode([array], 1).cells
    begins = _LENGTH.pack(8 * len(cells)) + cells.astype("<i8").tobytes()
    return WantedKey(as_json(array[0].as_py()), int(key_hashes(array)[0]), begins)


def kept_of(stored: StoredVertex, key: WantedKey, rows: StoredRows, bin_bits: int) -> Kept | None:
    """What the rows of the key's bin keep of it; None if nothing.

    Raises:
        UsageError: they are windows, and the state is of a version that does not say which.
        StateCorrupt: an entry is not whole.
        StateError: a sum of a window does not fit into 64 bits.
    """
    bin_id = key.bin(bin_bits)
    within = stored if key.begins is None else behind_key(stored)
    panes = keeps_panes(within.columns)
    ids, kept = rows.keys, rows.values
    if key.begins is not None:
        # The text beside a bin's mark is that of any key.
        mark = mark_of(bin_id, bin_bits) if panes else None
        places = [
            place
            for place, (number, each) in enumerate(zip(ids.tolist(), kept, strict=True))
            if number == mark or each.startswith(key.begins)
        ]
        ids, kept = ids[places], [split_text(kept[place])[1] for place in places]
    elif not panes:
        places = np.flatnonzero(ids == key.number).tolist()
        ids, kept = ids[places], [kept[place] for place in places]
    if panes:
        owner = key.number if key.begins is None else None
        lines, given = entries_of_key(ids, kept, bin_id, bin_bits, owner)
        if not lines.shape[1]:
            return None
        if stored.windows is None:
            raise UsageError(
                f"the state of {stored.vertex!r} was written by a version that did not say which "
                "windows there are; let the job write another checkpoint"
            )
        return _some(of_panes(within.columns, stored.windows, lines, given))
    if not kept:
        return None
    return _of_one(within, kept[0], _timers_of(int(ids[0]), rows.timers, bin_id, bin_bits))


def _some(windows: tuple[OpenWindow, ...]) -> Kept | None:
    return Kept(windows=windows) if windows else None


def _of_one(stored: StoredVertex, kept: bytes, timers: list[tuple[int, int]]) -> Kept | None:
    """What the one entry of a key keeps, whose timers have these times and tags."""
    windows = stored.windows
    formats = formats_of(stored.columns)
    if windows is not None and formats is not None:
        return _some(of_rows(windows, rows_in(kept, formats), timers))
    if windows is not None and (found := state_and_timers(stored, kept)) is not None:
        return _some(of_object(*found))
    return Kept(value=value_of(stored, kept))


def _timers_of(
    key: int, entries: Sequence[bytes], bin_id: int, bin_bits: int
) -> list[tuple[int, int]]:
    """Times and tags of a key's timers among those of its bin."""
    found = timers_in(bin_id, bin_bits, entries)
    own = found.keys == key
    return list(zip(found.times[own].tolist(), found.tags[own].tolist(), strict=True))
