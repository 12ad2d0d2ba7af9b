"""The objects of a vertex that are in memory, their bins, their encodings, and marks for a budget.

Flow: ObjectStore -> [ObjectRows] holds the dict that programs change; ColdTier -> [let_go,
take_back] where a budget bounds it.

Invariants
  OW1  A bin's set has exactly those keys of the dict whose hash is the bin's.
  OW2  A key is in `clean` only while the database has its object as it is here. A program may
       change what it was given in place, so every key of a batch counts as changed.
  OW3  Once rows have begun to leave, a key that a batch asks for is marked until the hand comes by.
Cost: what an object takes of a budget is an estimate: 200 bytes a key, and three times the mean
length of the encodings seen, the newest counting most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore import object_codec
from service.statestore.hosted import KeptRows
from service.statestore.timers import TimerTable

Int64s = NDArray[np.int64]

#: Rows applied between two samples of the states' sizes, and under a budget.
SAMPLE_ROWS = 1 << 16
BOUNDED_SAMPLE_ROWS = 1 << 10
#: Encodings seen after which all before count half.
_SAMPLES_MOST = 1 << 12
#: What a key takes beside its object: its places in the dict and in its bin's set, and itself.
_KEY_BYTES = 200
#: Memory of an object over the length of its encoding: 1 for long texts, 3 to 4 for lists of
#: numbers, 6 to 8 for small dicts [measured].
_IN_MEMORY = 3


@dataclass(frozen=True, slots=True)
class StateCodec:
    """Two functions that turn a state into bytes and back, under a name kept with the bytes."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


#: The codec of this package.
OBJECTS = StateCodec("objects1", object_codec.encode, object_codec.decode)


@dataclass(slots=True)
class Objects:
    """What a program changes: the states of all bins, and a note of keys that came and went."""

    states: dict[int, object] = field(default_factory=dict)
    #: Keys that had no state when a row of theirs came; again each time.
    came: list[int] = field(default_factory=list)
    #: Keys whose state was removed, whether they had one or not.
    went: list[int] = field(default_factory=list)


class ObjectRows:
    """Objects of the vertex named `vertex` in memory; to a tier, its `Residents`."""

    def __init__(self, vertex: str, bin_bits: int, codec: StateCodec) -> None:
        """Hold none."""
        self.vertex = vertex
        self.bin_bits = bin_bits
        self.codec = codec
        self.objects = Objects()
        #: Bin -> its keys (OW1); bins without keys are left out.
        self.members: dict[int, set[int]] = {}
        #: False while a batch is applied, and for good after one that failed.
        self.whole = True
        #: OW2, OW3.
        self._clean: set[int] = set()
        self._marked: set[int] = set()
        self._leaving = False
        #: Types of states that were encoded, and the lengths of encodings seen.
        self._known: set[type] = set()
        self._sampled_bytes = 0
        self._samples = 0
        self._unsampled = 0
        self.sample_rows = SAMPLE_ROWS
        #: Timers of the objects, which stay in memory and count.
        self.timers: TimerTable | None = None

    # Keys ---------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Keys of all bins."""
        return len(self.objects.states)

    def per_bin(self) -> Int64s:
        """Keys of every bin."""
        counts = np.zeros(1 << self.bin_bits, dtype=np.int64)
        for bin_id, keys in self.members.items():
            counts[bin_id] = len(keys)
        return counts

    def keys_of(self, bin_id: int) -> Int64s:
        """Keys of a bin."""
        members = self.members.get(bin_id, ())
        return np.fromiter(members, np.int64, len(members))

    def absent(self, keys: Int64s) -> Int64s:
        """Those of `keys` without an object here, each once."""
        found = set(keys.tolist()).difference(self.objects.states)
        return np.fromiter(found, np.int64, len(found))

    def note_members(self) -> list[int]:
        """Enter keys that came and went into the sets of their bins; those that have gone."""
        objects, members = self.objects, self.members
        changed = [*objects.came, *objects.went]
        if not changed:
            return []
        gone = [key for key in objects.went if key not in objects.states]
        self._clean.difference_update(gone)
        self._marked.difference_update(gone)
        objects.came.clear()
        objects.went.clear()
        bins = bins_of(np.array(changed, dtype=np.int64), self.bin_bits).tolist()
        for bin_id, key in zip(bins, changed, strict=True):
            if key in objects.states:
                members.setdefault(bin_id, set()).add(key)
            elif bin_id in members:
                members[bin_id].discard(key)
                if not members[bin_id]:
                    del members[bin_id]
        return gone

    def put(self, bin_id: int, states: dict[int, object]) -> None:
        """Keep changed objects of a bin."""
        if states:
            self.objects.states.update(states)
            self.members.setdefault(bin_id, set()).update(states)
            self._clean.difference_update(states)

    def remove(self, bin_id: int, keys: Iterable[int]) -> None:
        """Forget the objects of these keys of the bin, if there are any."""
        members = self.members.get(bin_id, set())
        self._forget(bin_id, members.intersection(keys))

    def _forget(self, bin_id: int, keys: set[int]) -> None:
        """Forget these keys of the bin, all of them here."""
        for key in keys:
            del self.objects.states[key]
        self._clean -= keys
        self._marked -= keys
        members = self.members.get(bin_id, set())
        members -= keys
        if not members:
            self.members.pop(bin_id, None)

    def clear(self) -> None:
        """Forget everything."""
        self.objects.states.clear()
        self.members.clear()
        self._clean.clear()
        self._marked.clear()

    def require_whole(self) -> None:
        """Refuse to give out state from the middle of a batch.

        Raises:
            StateError: a batch failed.
        """
        if not self.whole:
            raise StateError(
                f"the state of {self.vertex!r} is that of half a batch, because a function of the "
                "flow raised; start the job again to go on from its last checkpoint"
            )

    # For a tier (`Residents`) -------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of memory, estimated, and those of timers."""
        timers = 0 if self.timers is None else self.timers.nbytes
        return self.count * (_KEY_BYTES + _IN_MEMORY * self._mean) + timers

    @property
    def largest_region_bytes(self) -> int:
        """None: nothing doubles at once."""
        return 0

    def touched(self, keys: list[int]) -> None:
        """Note the keys of a batch (OW2, OW3)."""
        if self._clean:
            self._clean.difference_update(keys)
        if self._leaving:
            self._marked.update(keys)

    def unmark(self, keys: Int64s) -> None:
        """Take the marks of these keys."""
        self._marked.difference_update(keys.tolist())

    def let_go(self, bins: Int64s) -> tuple[Int64s, KeptRows] | None:
        """Take out the objects of these bins that have no mark, and the marks of the others.

        Of half a batch none leaves.

        Raises:
            StateError: an object cannot be encoded; nothing left.
        """
        self._leaving = True
        if not self.whole:
            return None
        leaving = {}
        for bin_id in bins.tolist():
            members = self.members.get(bin_id)
            if members:
                leaving[bin_id] = members - self._marked
        gone = list(chain.from_iterable(leaving.values()))
        kept = self._kept(key for key in gone if key not in self._clean)
        for bin_id, keys in leaving.items():
            self._marked -= self.members[bin_id]
            self._forget(bin_id, keys)
        return (np.array(gone, dtype=np.int64), kept) if gone else None

    def take_changed(self, bins: Int64s) -> KeptRows:
        """Objects of these bins that have changed; they count as unchanged from now on."""
        self.require_whole()
        changed: list[int] = []
        for bin_id in bins.tolist():
            changed += self.members.get(bin_id, set()) - self._clean
        kept = self._kept(changed)
        self._clean.update(changed)
        return kept

    def take_back(self, keys: Int64s, values: list[bytes]) -> None:
        """Add objects that the database had, as unchanged.

        Raises:
            StateCorrupt: one cannot be decoded.
        """
        states, came = self.objects.states, keys.tolist()
        for key, value in zip(came, values, strict=True):
            states[key] = self.decode(key, value)
        for bin_id, key in zip(bins_of(keys, self.bin_bits).tolist(), came, strict=True):
            self.members.setdefault(bin_id, set()).add(key)
        self._clean.update(came)
        self.count_sample(sum(map(len, values)), len(values))

    def _kept(self, keys: Iterable[int]) -> KeptRows:
        """Objects of these keys as the database keeps them."""
        listed = list(keys)
        encoded = np.empty(len(listed), dtype=np.object_)
        encoded[:] = self.encoded(listed)
        return KeptRows(np.array(listed, dtype=np.int64), np.zeros(len(listed), np.int64), encoded)

    # Encodings ----------------------------------------------------------------------------------

    def encoded(self, keys: Sequence[int]) -> list[bytes]:
        """The encoded objects of these keys, all of them here.

        Raises:
            StateError: one cannot be encoded.
        """
        states = self.objects.states
        encoded = [self.encode(key, states[key]) for key in keys]
        self.count_sample(sum(map(len, encoded)), len(encoded))
        return encoded

    def encode(self, key: int, state: object) -> bytes:
        """A state as bytes.

        Raises:
            StateError: it cannot be encoded.
        """
        try:
            return self.codec.encode(state)
        except Exception as error:  # a codec of a user may raise anything
            raise StateError(
                f"the state of {self.vertex!r} for key {key}, a {type(state).__name__}, cannot be "
                f"encoded ({error}), so its bin could neither move nor be stored; keep plain "
                "values, containers, and objects of classes that a module defines, or give a codec"
            ) from error

    def decode(self, key: int, encoded: bytes) -> object:
        """The state in `encoded`.

        Raises:
            StateCorrupt: it cannot be decoded.
        """
        try:
            return self.codec.decode(encoded)
        except Exception as error:  # a codec of a user may raise anything
            raise StateCorrupt(
                f"the state of {self.vertex!r} for key {key} cannot be decoded "
                f"({type(error).__name__}: {error}); start the job with the code that wrote it"
            ) from error

    def sample(self, key: int, rows: int) -> None:
        """Encode the state of `key`, the last of a batch, if its type is new or it is time.

        Raises:
            StateError: it cannot be encoded.
        """
        self._unsampled += rows
        state = self.objects.states.get(key)
        kind = type(state)
        if state is None or (kind in self._known and self._unsampled < self.sample_rows):
            return
        self.count_sample(len(self.encode(key, state)), 1)
        self._known.add(kind)
        self._unsampled = 0

    def count_sample(self, nbytes: int, objects: int) -> None:
        """Count encodings seen."""
        self._sampled_bytes += nbytes
        self._samples += objects
        if self._samples > _SAMPLES_MOST:
            self._sampled_bytes //= 2
            self._samples //= 2

    def estimate(self, keys: int) -> int:
        """Bytes of so many keys when they move, estimated, and what a key takes."""
        return keys * (_KEY_BYTES + self._mean)

    @property
    def _mean(self) -> int:
        return self._sampled_bytes // max(1, self._samples)
