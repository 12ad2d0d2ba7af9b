"""Keys of the word-count benchmark: which record has which, and what a vector makes of them.

Flow: (seed, number of a record) -> [draw] -> key column -> flow; at the end -> [weigh] -> checksum.

Records have no memory of one another: the key of record i is a function of the seed and i, so that
any part of the stream can be drawn again to check what came of it.

`vec` keeps dense keys: bin = key mod bins, slot = key >> bin bits, as the original has it. The
service's F takes the top bits of a key's hash for its bin, and the hash is a bijection. So a dense
key travels as the number whose hash has its bin on top and its slot below ([encode]): F stays as it
is, and S finds bin and slot by hashing.

Invariants
  WK1  Keys are uniform over 0 .. domain - 1.
  WK2  mix64(encode(key)) has the key's bin in its top bits and its slot below.
  WK3  The weight of a stream is the sum of its keys' hashes modulo 2**64: equal for a stream and
       for the table of its counts, so every run can prove that nothing was lost, doubled, or
       counted under another key.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from service.hashing import KEYS, mix64

Int64s = NDArray[np.int64]
_OUT = types.Array(types.int64, 1, "C")
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 1 << 64
#: Inverses, modulo 2**64, of the factors of `mix64`.
_SECOND = np.uint64(pow(0x94D049BB133111EB, -1, _WORD))
_FIRST = np.uint64(pow(0xBF58476D1CE4E5B9, -1, _WORD))
#: Streams of different workers begin this far apart, so that they never meet.
_STREAM = 1 << 48


@njit(inline="always")
def _unmix(hashed: np.uint64) -> np.uint64:
    """The number whose `mix64` is `hashed`."""
    x = np.uint64(hashed)
    x = (x ^ (x >> np.uint64(31)) ^ (x >> np.uint64(62))) * _SECOND
    x = (x ^ (x >> np.uint64(27)) ^ (x >> np.uint64(54))) * _FIRST
    x = x ^ (x >> np.uint64(30)) ^ (x >> np.uint64(60))
    return x - np.uint64(_GOLDEN)


@njit(inline="always")
def _encoded(key: int, bin_bits: int) -> int:
    lowest = np.uint64(key) & np.uint64((1 << bin_bits) - 1)
    # Two shifts, because with no bin bits a single one by 64 would be undefined.
    top = (lowest << np.uint64(1)) << np.uint64(63 - bin_bits)
    return np.int64(_unmix(top | (np.uint64(key) >> np.uint64(bin_bits))))  # type: ignore[return-value]  # numba's int


@njit(types.void(types.int64, types.int64, types.int64, types.int64, _OUT), cache=True, nogil=True)
def _draw(seed: int, first: int, domain: int, bin_bits: int, out: Int64s) -> None:
    for number in range(out.shape[0]):
        half = mix64(np.uint64(seed + first + number)) >> np.uint64(32)
        out[number] = (half * np.uint64(domain)) >> np.uint64(32)
        if bin_bits >= 0:
            out[number] = _encoded(out[number], bin_bits)


@njit(types.void(types.int64, types.int64, _OUT), cache=True, nogil=True)
def _count_down(highest: int, bin_bits: int, out: Int64s) -> None:
    for number in range(out.shape[0]):
        key = highest - number
        out[number] = key if bin_bits < 0 else _encoded(key, bin_bits)


@njit(types.void(KEYS, types.int64, _OUT), cache=True, nogil=True)
def _encode_all(keys: Int64s, bin_bits: int, out: Int64s) -> None:
    for row in range(keys.shape[0]):
        out[row] = keys[row] if bin_bits < 0 else _encoded(keys[row], bin_bits)


@njit(types.uint64(KEYS), cache=True, nogil=True)
def _weigh(keys: Int64s) -> np.uint64:
    total = np.uint64(0)
    for row in range(keys.shape[0]):
        total += mix64(np.uint64(keys[row]))
    return total


@njit(types.uint64(KEYS, KEYS), cache=True, nogil=True)
def _weigh_counted(keys: Int64s, counts: Int64s) -> np.uint64:
    total = np.uint64(0)
    for row in range(keys.shape[0]):
        total += mix64(np.uint64(keys[row])) * np.uint64(counts[row])
    return total


class KeySpace:
    """The keys of one run; `bin_bits` is None where they travel as they are."""

    def __init__(self, domain: int, bin_bits: int | None) -> None:
        """Draw from 0 .. `domain` - 1, encoded for so many bin bits."""
        self.domain = domain
        self._bits = -1 if bin_bits is None else bin_bits

    def draw(self, worker: int, first: int, records: int) -> Int64s:
        """Keys of records `first` .. of a worker's stream (WK1). Cost: 2 ns a record."""
        out = np.empty(records, dtype=np.int64)
        _draw((worker + 1) * _STREAM, first, self.domain, self._bits, out)
        return out

    def travelling(self, keys: Int64s) -> Int64s:
        """What dense keys travel as (WK2)."""
        out = np.empty(len(keys), dtype=np.int64)
        _encode_all(np.ascontiguousarray(keys, dtype=np.int64), self._bits, out)
        return out

    def count_down(self, highest: int, records: int) -> Int64s:
        """The keys `highest`, `highest` - 1, …, as the load phase inserts them."""
        out = np.empty(records, dtype=np.int64)
        _count_down(highest, self._bits, out)
        return out


def weigh(keys: Int64s) -> int:
    """The weight of a stream (WK3)."""
    return int(_weigh(keys))


def weigh_counted(keys: Int64s, counts: Int64s) -> int:
    """The weight of a table: of each key as often as it was counted (WK3)."""
    return int(_weigh_counted(keys, counts))
