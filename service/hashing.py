"""The stable hash that gives a key its bin.

Flow: key column -> [hash64] -> bin = top bits -> routing table (F) and arena region (S).

Invariants
  H1  A key's hash is the same in every process, on every machine, in every version of a state.
  H2  `hash64` of integers is a bijection, so equal hashes mean equal keys.
  H3  bin = hash >> (64 - bin_bits): the top bits; tables index with the low bits.
  H4  A text's hash depends on its bytes alone, in whichever Arrow type they come: its length mixed,
      then mixed with each 8 bytes, little endian. Texts with equal hashes may differ.

Source: the finaliser constants of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from service.errors import UsageError

MAX_BIN_BITS = 20


@njit(inline="always")
def mix64(key: np.uint64) -> np.uint64:
    """Hash one 64-bit integer (H2). Cost: three multiplications and shifts."""
    x = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


#: A column as a kernel reads it: contiguous, and perhaps memory that Arrow does not let change.
#: Kernels are given their types, so that they compile on import and no batch waits for it.
KEYS = types.Array(types.int64, 1, "C", readonly=True)


@njit(
    types.void(KEYS, types.int64, types.Array(types.int32, 1, "C")),
    cache=True,
    nogil=True,
)
def _bins(keys: NDArray[np.int64], bin_bits: int, out: NDArray[np.int32]) -> None:
    if bin_bits == 0:
        out[:] = 0
        return
    shift = np.uint64(64 - bin_bits)
    for row in range(keys.shape[0]):
        out[row] = np.int32(mix64(np.uint64(keys[row])) >> shift)


def bins_of(keys: NDArray[np.int64], bin_bits: int) -> NDArray[np.int32]:
    """Bin of each key.

    Args:
        keys: n keys.
        bin_bits: 0..20; the number of bins is 2**bin_bits.

    Returns:
        n bin numbers, order kept.
    """
    out = np.empty(keys.shape[0], dtype=np.int32)
    _bins(keys, bin_bits, out)
    return out


def bin_bits_of(bins: int) -> int:
    """Number of top bits that `bins` bins take.

    Raises:
        UsageError: `bins` is no power of two in 1..2**20.
    """
    bits = bins.bit_length() - 1
    if bins < 1 or bits > MAX_BIN_BITS or 1 << bits != bins:
        raise UsageError(f"--bins {bins}: must be a power of two from 1 to {1 << MAX_BIN_BITS}")
    return bits


@njit(
    types.void(
        types.Array(types.uint8, 1, "C", readonly=True), KEYS, types.Array(types.int64, 1, "C")
    ),
    cache=True,
    nogil=True,
)
def _hash_texts(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.int64]
) -> None:
    for row in range(out.shape[0]):
        at, end = offsets[row], offsets[row + 1]
        hashed = mix64(np.uint64(end - at))
        while at < end:
            word = np.uint64(0)
            for byte in range(min(end - at, 8)):
                word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
            hashed = mix64(hashed ^ word)
            at += 8
        out[row] = np.int64(hashed)


def hash_texts(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hash of each text (H4), as a number that `bins_of` takes for a key.

    Args:
        data: the texts' bytes.
        offsets: where each begins and ends in `data`, n + 1.

    Returns:
        n numbers.

    Cost: about 2 ns for each 8 bytes.
    """
    out = np.empty(len(offsets) - 1, dtype=np.int64)
    _hash_texts(data, offsets, out)
    return out
