"""A key's state and its timers as one: what `ProcessStore` keeps, moves and stores of a key.

Flow: ProcessStore <-> [Kept] <-> [with_timers]'s codec <-> chunks, checkpoints, the database;
`megaphone state` -> [split] -> the parts, without the flow's codec.

An encoding is: whether there is a state, u8; the number of timers, u32; their times, i64 each,
ascending, little endian; the state as its own codec encodes it.

Invariants
  TM1  `split` takes what `with_timers` encoded and nothing else, as far as it can tell.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from service.statestore.object_rows import StateCodec

#: How the name of a codec of states with timers ends.
WITH_TIMERS = "+timers"

_COUNT = struct.Struct("<?I")


class Kept:
    """What is kept of a key."""

    __slots__ = ("state", "times")

    def __init__(self, state: Any, times: set[int]) -> None:
        """Keep a state, None if there is none, and the times of its timers."""
        self.state = state
        self.times = times


def with_timers(codec: StateCodec) -> StateCodec:
    """A codec for states with their timers, from one for states."""

    def encode(kept: Kept) -> bytes:
        head = _COUNT.pack(kept.state is not None, len(kept.times))
        times = np.array(sorted(kept.times), dtype="<i8").tobytes()
        return head + times + (b"" if kept.state is None else codec.encode(kept.state))

    def decode(encoded: bytes) -> Kept:
        body, times = split(encoded)
        return Kept(None if body is None else codec.decode(body), set(times))

    return StateCodec(f"{codec.name}{WITH_TIMERS}", encode, decode)


def split(encoded: bytes) -> tuple[bytes | None, list[int]]:
    """The encoded state, None if there is none, and the times of the timers.

    Raises:
        ValueError, struct.error: it is no such encoding.
    """
    there, count = _COUNT.unpack_from(encoded)
    body = _COUNT.size + 8 * count
    times: list[int] = np.frombuffer(encoded, "<i8", count, _COUNT.size).tolist()
    if len(set(times)) != count or (not there and len(encoded) != body):
        raise ValueError(f"{len(encoded)} bytes are no state with {count} timers")
    return encoded[body:] if there else None, times
