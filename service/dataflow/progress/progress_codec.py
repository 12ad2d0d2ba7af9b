"""Progress batches as bytes.

Flow: ProgressSender -> [encode_progress] -> transport -> [decode_progress] -> ProgressReceiver.
Pure: bytes and tuples.

Layout, version 1. Integers are LEB128 varints (7 bits a byte, low first); signed ones are zigzag.
  byte     version = 1
  byte     flags: bit 0 = final batch, the rest zero
  varint   sequence
  varint   number of changes, then for each change:
    varint   location
    signed   delta, not zero
    varint   number of counters k
    signed   epoch minus the epoch of the change before (0 before the first)
    varint   counter, k times
Times of a batch lie close together, so all but the first epoch take two or three bytes.

Invariants
  PC1  decode_progress(encode_progress(b)) == b.
  PC2  Bytes that encode_progress cannot have made are refused; nothing is allocated beyond a small
       multiple of the bytes' length.
Cost: about 1 us per change each way.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.timestamp import COORDINATE_END

FORMAT_VERSION: Final = 1
_FLAG_FINAL: Final = 1
#: A zigzag-coded difference of two 64-bit epochs has up to 65 bits.
_BITS_MAX: Final = 65


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


def encode_progress(batch: ProgressBatch) -> bytes:
    """Encode a batch (PC1)."""
    out = bytearray((FORMAT_VERSION, _FLAG_FINAL if batch.is_final else 0))
    _put(out, batch.sequence)
    _put(out, len(batch.changes))
    last_epoch = 0
    for location, time, delta in batch.changes:
        assert delta, "CB1: a change of zero"
        epoch = time[0]
        assert 0 <= epoch < COORDINATE_END, f"TS1: {time}"
        difference = epoch - last_epoch
        last_epoch = epoch
        _put(out, location)
        _put(out, delta << 1 if delta >= 0 else ~(delta << 1))
        _put(out, len(time) - 1)
        _put(out, difference << 1 if difference >= 0 else ~(difference << 1))
        for counter in time[1:]:
            _put(out, counter)
    return bytes(out)


def decode_progress(data: bytes) -> ProgressBatch:
    """Decode a batch.

    Raises:
        ProgressError: the bytes are no batch of version 1 (PC2).
    """
    if len(data) < 2:
        raise ProgressError(f"a progress batch has at least 2 bytes, got {len(data)}")
    if data[0] != FORMAT_VERSION:
        raise ProgressError(
            f"progress format {data[0]} is not {FORMAT_VERSION}, the one known here"
        )
    if data[1] & ~_FLAG_FINAL:
        raise ProgressError(f"unknown flags {data[1]:#x} in a progress batch")
    reader = _Reader(data, 2)
    sequence = reader.number()
    changes: list[Change] = []
    epoch = 0
    for _ in range(reader.number()):
        location = reader.number()
        delta = reader.signed()
        if not delta:
            raise ProgressError(f"change of zero in a progress batch, before byte {reader.at}")
        counter_count = reader.number()
        epoch += reader.signed()
        if not 0 <= epoch < COORDINATE_END:
            raise ProgressError(f"epoch {epoch} out of range before byte {reader.at}")
        time = (
            (epoch, *(reader.number() for _ in range(counter_count))) if counter_count else (epoch,)
        )
        changes.append((location, time, delta))
    if reader.at != len(data):
        raise ProgressError(f"{len(data) - reader.at} bytes too many in a progress batch")
    return ProgressBatch(sequence, tuple(changes), bool(data[1] & _FLAG_FINAL))


def _put(out: bytearray, number: int) -> None:
    """Append a varint."""
    assert 0 <= number < 1 << _BITS_MAX, f"{number} does not fit"
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


class _Reader:
    """Reads varints; every read is bounded by the end of the bytes."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        #: Position of the next byte.
        self.at = at

    def number(self) -> int:
        """Read an unsigned number."""
        data, at = self._data, self.at
        value = shift = 0
        byte = 0x80
        while byte > 0x7F:
            if at >= len(data):
                raise ProgressError(f"a progress batch of {len(data)} bytes ends too early")
            if shift > _BITS_MAX:
                raise ProgressError(f"a number is too long before byte {at} of a progress batch")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        if value >> _BITS_MAX or (shift > 7 and not byte):
            raise ProgressError(f"a number is malformed before byte {at} of a progress batch")
        self.at = at
        return value

    def signed(self) -> int:
        """Read a zigzag-coded number."""
        value = self.number()
        return ~(value >> 1) if value & 1 else value >> 1
