"""Progress batches as bytes.

Flow: ProgressSender -> [encode_progress] -> transport -> [decode_progress] -> ProgressReceiver.
Pure: bytes and tuples.

Layout, version 2, little-endian, column by column: that is what the interpreter packs and unpacks
in one call, whatever the number of changes.
  u8       version = 2
  u8       flags: bit 0 = final batch, the rest zero
  u32      number of changes n
  u64      sequence
  u32 * n  locations
  i64 * n  deltas, none zero
  u8 * n   coordinates of each timestamp, at least 1
  u64 ...  the coordinates, one timestamp after the other: epoch, counters
Version 1 wrote varints: a third of the bytes at over twice the cost, and a batch of a job that
keeps up has a few changes, less than the headers below it.

Invariants
  PC1  decode_progress(encode_progress(b)) == b.
  PC2  Bytes that encode_progress cannot have made are refused; nothing is allocated beyond a small
       multiple of the bytes' length.
Cost: under 2 us each way for four changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.timestamp import Timestamp

FORMAT_VERSION: Final = 2
_FLAG_FINAL: Final = 1
_HEAD: Final = struct.Struct("<BBIQ")
#: Location, delta and number of coordinates of one change.
_CHANGE_BYTES: Final = 13
_COORDINATE_BYTES: Final = 8


class ProgressBatch(NamedTuple):
    """What one process broadcasts at once.

    Attributes:
        sequence: number of the batch among those of its sender, from 0.
        changes: (location, time, delta), increases first, deltas not zero.
        is_final: whether the sender leaves with it.
    """

    sequence: int
    changes: tuple[Change, ...]
    is_final: bool = False


@lru_cache(maxsize=1024)
def _columns(changes: int) -> struct.Struct:
    """The three columns that have one number per change."""
    return struct.Struct(f"<{changes}I{changes}q{changes}B")


@lru_cache(maxsize=1024)
def _coordinates(count: int) -> struct.Struct:
    """The coordinates of all timestamps."""
    return struct.Struct(f"<{count}Q")


def encode_progress(batch: ProgressBatch) -> bytes:
    """Encode a batch (PC1)."""
    count = len(batch.changes)
    head = _HEAD.pack(FORMAT_VERSION, _FLAG_FINAL if batch.is_final else 0, count, batch.sequence)
    if not count:
        return head
    locations, times, deltas = zip(*batch.changes, strict=True)
    assert 0 not in deltas, "CB1: a change of zero"
    coordinates = tuple(chain.from_iterable(times))
    try:
        columns = _columns(count).pack(*locations, *deltas, *map(len, times))
        return head + columns + _coordinates(len(coordinates)).pack(*coordinates)
    except struct.error as error:
        raise AssertionError(f"TS1: a number of {batch} is out of range: {error}") from error


def decode_progress(data: bytes) -> ProgressBatch:
    """Decode a batch.

    Raises:
        ProgressError: the bytes are no batch of version 2 (PC2).
    """
    size = len(data)
    if size < _HEAD.size:
        raise ProgressError(f"a progress batch has at least {_HEAD.size} bytes, got {size}")
    version, flags, count, sequence = _HEAD.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ProgressError(
            f"progress format {version} is not {FORMAT_VERSION}, the one known here"
        )
    if flags & ~_FLAG_FINAL:
        raise ProgressError(f"unknown flags {flags:#x} in a progress batch")
    at = _HEAD.size + count * _CHANGE_BYTES
    if at + count * _COORDINATE_BYTES > size:
        raise ProgressError(f"a progress batch of {size} bytes ends too early for {count} changes")
    numbers = _columns(count).unpack_from(data, _HEAD.size)
    locations, deltas, lengths = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
    total = sum(lengths)
    if at + total * _COORDINATE_BYTES != size:
        raise ProgressError(
            f"a progress batch of {size} bytes should have {at + total * _COORDINATE_BYTES}: "
            "it ends too early, or has bytes too many"
        )
    if 0 in deltas:
        raise ProgressError("change of zero in a progress batch")
    coordinates = _coordinates(total).unpack_from(data, at)
    if 0 in lengths:
        raise ProgressError("a timestamp without an epoch in a progress batch")
    coordinates = _coordinates(total).unpack_from(data, at)
    times: Iterable[Timestamp]
    # Outside loops every timestamp is an epoch alone.
    times = zip(coordinates) if total == count else _cut(coordinates, lengths)
    changes = tuple(zip(locations, times, deltas, strict=True))
    return ProgressBatch(sequence, changes, bool(flags & _FLAG_FINAL))


def _cut(coordinates: tuple[int, ...], lengths: tuple[int, ...]) -> Iterator[Timestamp]:
    """One timestamp after the other, each of its length."""
    at = 0
    for length in lengths:
        yield coordinates[at : at + length]
        at += length
