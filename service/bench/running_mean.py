"""The per-record functions that both sides of a benchmark run, and their input.

Imports the standard library only: Bytewax runs it with the interpreter of its own environment.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

#: Near 2^64 divided by the golden ratio: multiples of it, modulo 2^64, lie all over the place.
_ODD = 0x9E3779B97F4A7C15
_VALUES = 1000

#: (number of values, their sum)
State = tuple[int, int]


def running_mean(state: State | None, value: int) -> tuple[State, float]:
    """The mean of all values of a key so far, this one included."""
    count, total = state or (0, 0)
    count, total = count + 1, total + value
    return (count, total), total / count


def running_count(state: int | None, _value: int) -> tuple[int, int]:
    """How many values of a key there were so far, this one included."""
    count = (state or 0) + 1
    return count, count


def records_of(records: int, keys: int) -> list[tuple[int, int]]:
    """(key, value) of each record, the same in every process and every version."""
    return [
        (scrambled % keys, scrambled // keys % _VALUES)
        for scrambled in (number * _ODD % (1 << 64) >> 24 for number in range(records))
    ]


def digest_of(outputs: Iterable[tuple[int, float]]) -> str:
    """Hex digest of (key, mean) pairs: of the order within each key, not of that between keys."""
    by_key: dict[int, list[float]] = {}
    for key, mean in outputs:
        by_key.setdefault(key, []).append(mean)
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(by_key):
        means = by_key[key]
        digest.update(struct.pack(f"<qq{len(means)}d", key, len(means), *means))
    return digest.hexdigest()
