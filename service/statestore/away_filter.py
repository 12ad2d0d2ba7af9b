"""Which keys may be in the database: those that are not are known absent without asking it.

Flow: rows leave memory -> [AwayFilter.enter]; keys that memory does not have -> [may_hold] -> one
multi-get for those that it lets pass.

Parts four times as large follow one another as keys come, so that nothing is ever rebuilt while the
stream waits, and the memory is at most a third more than the last part needs.

Invariants
  AF1  A key that was entered is let pass for as long as the filter lives.
  AF2  Of keys never entered, a few in a hundred pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.statestore import _tiers

_FIRST_WORDS = 1 << 7
_GROWTH = 4
#: 10.7 bits a key; of keys never entered 2 in 100 pass a full part [measured].
_KEYS_PER_WORD = 6


class AwayFilter:
    """A set of keys that may hold more than was entered."""

    def __init__(self, parts: Sequence[NDArray[np.uint64]] = (), entered: int = 0) -> None:
        """Make an empty filter, or one of `parts` that another had, `entered` in its last one."""
        self._parts = list(parts)
        #: Keys entered into the last part.
        self._entered = entered

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self._parts)

    @property
    def count(self) -> int:
        """About how many keys were entered."""
        full = sum(len(part) for part in self._parts[:-1])
        return full * _KEYS_PER_WORD + self._entered

    @property
    def parts(self) -> tuple[list[NDArray[np.uint64]], int]:
        """What `__init__` takes: the words themselves, no copies."""
        return self._parts, self._entered

    def may_hold(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each key may have been entered (AF1). Cost: 3 to 10 ns a key and part."""
        passed = np.zeros(len(keys), dtype=np.bool_)
        for part in self._parts:
            _tiers.may_hold(part, keys, passed)
        return passed

    def enter(self, keys: NDArray[np.int64]) -> None:
        """Enter keys, repeated as they like."""
        left = keys[~self.may_hold(keys)]
        while len(left):
            if not self._parts or self._entered >= len(self._parts[-1]) * _KEYS_PER_WORD:
                words = len(self._parts[-1]) * _GROWTH if self._parts else _FIRST_WORDS
                self._parts.append(np.zeros(words, dtype=np.uint64))
                self._entered = 0
            room = len(self._parts[-1]) * _KEYS_PER_WORD - self._entered
            _tiers.enter(self._parts[-1], left[:room])
            self._entered += min(room, len(left))
            left = left[room:]

    def clear(self) -> None:
        """Forget all keys."""
        self._parts.clear()
        self._entered = 0
