"""Timers of a bin as a store gives and takes them, for tests of what carries them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from service.hashing import bins_of


def key_of(bin_id: int, bin_bits: int) -> int:
    """The least natural number that is a key of the bin."""
    keys = np.arange(100 << bin_bits)
    return int(keys[bins_of(keys, bin_bits) == bin_id][0])


def entries_at(times: Iterable[int], bin_id: int, bin_bits: int) -> list[bytes]:
    """A timer at each of these times, for one key of the bin."""
    key = key_of(bin_id, bin_bits)
    return [struct.pack("<qqq", time, key, 0) for time in sorted(set(times))]
