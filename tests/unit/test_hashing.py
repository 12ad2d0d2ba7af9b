"""The hash that gives a key its bin: fixed for ever, even, and without collisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UsageError
from service.hashing import MAX_BIN_BITS, bin_bits_of, bins_of, mix64

INT64 = st.integers(-(2**63), 2**63 - 1)
MASK = (1 << 64) - 1


def plain(key: int) -> int:
    """SplitMix64's finaliser in Python's integers."""
    x = (key + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_known_keys_keep_their_bins_for_the_life_of_every_state_ever_written() -> None:
    keys = np.array([0, 1, 2, 1000, -1, 2**63 - 1, -(2**63)], dtype=np.int64)
    assert bins_of(keys, 10).tolist() == [904, 580, 605, 240, 915, 169, 288]
    assert plain(0) == 0xE220A8397B1DCDAF  # the first output published for seed 0


@given(st.lists(INT64, max_size=50), st.integers(0, MAX_BIN_BITS))
def test_a_bin_is_the_top_bits_of_the_published_hash(keys: list[int], bits: int) -> None:
    found = bins_of(np.array(keys, dtype=np.int64), bits)
    assert found.tolist() == [plain(key & MASK) >> (64 - bits) for key in keys]


@given(INT64)
def test_no_two_keys_share_a_hash(key: int) -> None:
    """Every step is undone, so the function is a bijection."""
    x = plain(key & MASK)
    x ^= (x >> 31) ^ (x >> 62)
    x = (x * pow(0x94D049BB133111EB, -1, 1 << 64)) & MASK
    x ^= (x >> 27) ^ (x >> 54)
    x = (x * pow(0xBF58476D1CE4E5B9, -1, 1 << 64)) & MASK
    x ^= (x >> 30) ^ (x >> 60)
    assert (x - 0x9E3779B97F4A7C15) & MASK == key & MASK


def test_consecutive_keys_are_spread_evenly() -> None:
    counts = np.bincount(bins_of(np.arange(100_000, dtype=np.int64), 8), minlength=256)
    assert counts.min() > 300
    assert counts.max() < 500


def test_the_kernel_takes_what_nobody_may_change_and_nothing_at_all() -> None:
    keys = np.arange(20, dtype=np.int64)
    keys.flags.writeable = False
    assert bins_of(keys[5:], 4).tolist() == bins_of(keys, 4)[5:].tolist()
    assert bins_of(keys[:0], 4).tolist() == []
    assert bins_of(keys, 0).tolist() == [0] * 20


def test_one_integer_hashes_as_in_a_column() -> None:
    assert int(mix64(np.uint64(1000))) >> 54 == bins_of(np.array([1000]), 10)[0]


def test_the_number_of_bins_is_a_power_of_two_up_to_a_limit() -> None:
    assert [bin_bits_of(1 << bits) for bits in range(MAX_BIN_BITS + 1)] == list(
        range(MAX_BIN_BITS + 1)
    )
    for bins in (0, -1, 3, 12, 1 << (MAX_BIN_BITS + 1)):
        with pytest.raises(UsageError, match=f"--bins {bins}: must be a power of two from 1 to"):
            bin_bits_of(bins)
