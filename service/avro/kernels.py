"""Reading and writing single Avro values: the pieces generated kernels are made of.

Flow: decoder and encoder copy the *source text* of these functions into the kernels they generate
(kernel_cache K1); checker and `gather` use them directly.

Invariants
  L1  A reader looks at no byte at or beyond `end`, and answers the position after the value, or
      minus a RowError. It is given a position that is not negative.
  L2  A writer is given room enough and answers the position after the value.

Source: Apache Avro 1.12 specification, "Binary Encoding"; Unicode 15, table 3-7 (UTF-8).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.avro.row_error import RowError

#: An integer inside a kernel.
Place: TypeAlias = int | np.int64

# numba reads module constants when it compiles, but not the members of an enum.
TRUNCATED = int(RowError.TRUNCATED)
VARINT_OVERFLOW = int(RowError.VARINT_OVERFLOW)
BAD_LENGTH = int(RowError.BAD_LENGTH)
BAD_UTF8 = int(RowError.BAD_UTF8)


# Readers are inlined by force: called, each would be handed the array's seven parts on the stack.
# Places are made unsigned, so that no code is needed for counting from the end.
@njit(nogil=True, forceinline=True)
def read_long(data: NDArray[np.uint8], at: Place, end: Place) -> tuple[Place, Place]:
    """A zigzag varint of at most ten bytes and 64 bits."""
    bits = np.uint64(0)
    shift = np.uint64(0)
    for _ in range(9):
        if at >= end:
            return np.int64(0), np.int64(-TRUNCATED)
        byte = np.uint64(data[np.uint64(at)])
        at += 1
        bits |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at
        shift += np.uint64(7)
    if at >= end:
        return np.int64(0), np.int64(-TRUNCATED)
    byte = np.uint64(data[np.uint64(at)])
    if byte > np.uint64(1):
        return np.int64(0), np.int64(-VARINT_OVERFLOW)
    bits |= byte << shift
    return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at + 1


@njit(nogil=True, forceinline=True)
def read_length(data: NDArray[np.uint8], at: Place, end: Place) -> tuple[Place, Place]:
    """A length that fits into what is left. One below 64, in one byte, is read without a loop."""
    if at < end:
        byte = np.int64(data[np.uint64(at)])
        if byte < 128 and byte & 1 == 0 and byte >> 1 < end - at:
            return byte >> 1, at + 1
    length, at = read_long(data, at, end)
    if at >= 0 and (length < 0 or length > end - at):
        return np.int64(0), np.int64(-BAD_LENGTH)
    return length, at


@njit(nogil=True, forceinline=True)
def read_bits(data: NDArray[np.uint8], at: Place, width: int) -> np.uint64:
    """`width` little-endian bytes, which the caller knows to be there."""
    bits = np.uint64(0)
    for byte in range(width):
        bits |= np.uint64(data[np.uint64(at) + np.uint64(byte)]) << np.uint64(8 * byte)
    return bits


@njit(nogil=True)
def put_long(out: NDArray[np.uint8], at: Place, value: int) -> Place:
    """A zigzag varint in its shortest form."""
    bits = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> np.int64(63))
    while bits >= np.uint64(128):
        out[at] = np.uint8(bits & np.uint64(127)) | np.uint8(128)
        bits >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(bits)
    return at + 1


@njit(nogil=True)
def put_bits(out: NDArray[np.uint8], at: Place, bits: np.uint64, width: int) -> Place:
    """The `width` low bytes of `bits`, little-endian."""
    for byte in range(width):
        out[at + byte] = np.uint8((np.uint64(bits) >> np.uint64(8 * byte)) & np.uint64(255))
    return at + width


@njit(nogil=True)
def put_span(
    out: NDArray[np.uint8], at: Place, data: NDArray[np.uint8], start: Place, end: Place
) -> Place:
    """The bytes data[start:end]."""
    # Unsigned places cannot count from the end; without that case the loop becomes a block copy.
    source, target = np.uint64(start), np.uint64(at)
    for byte in range(np.uint64(end - start)):
        out[target + np.uint64(byte)] = data[source + np.uint64(byte)]
    return at + end - start


@njit(nogil=True)
def is_utf8(data: NDArray[np.uint8], at: Place, end: Place) -> bool:
    """Whether data[at:end] is UTF-8: shortest forms only, no surrogates, nothing over U+10FFFF."""
    while at < end:
        first = data[at]
        at += 1
        if first < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            low = 0xA0 if first == 0xE0 else 0x80
            high = 0x9F if first == 0xED else 0xBF
        elif 0xF0 <= first <= 0xF4:
            more = 3
            low = 0x90 if first == 0xF0 else 0x80
            high = 0x8F if first == 0xF4 else 0xBF
        else:
            return False
        if end - at < more:
            return False
        for _ in range(more):
            if not low <= data[at] <= high:
                return False
            low, high = 0x80, 0xBF
            at += 1
    return True


@njit(cache=True, nogil=True)
def gather(
    data: NDArray[np.uint8],
    begin: NDArray[np.int64],
    length: NDArray[np.int32],
    is_text: bool,
    codes: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Copy the spans of good rows one after another; text that is no UTF-8 makes its row bad.

    Args:
        data: bytes of all rows.
        begin: where the span of each of the n rows begins.
        length: its bytes.
        is_text: whether the bytes must be UTF-8.
        codes: n RowError codes; read and written.
        offsets: n + 1 places in `out`; filled.
        out: as large as all spans together; filled.
    """
    # Unsigned places: see put_span. Ten times faster than with signed ones.
    at = np.uint64(0)
    for row in range(begin.shape[0]):
        if codes[row] == 0:
            start, size = np.uint64(begin[row]), np.uint64(length[row])
            seen = np.uint8(0)
            for place in range(size):
                byte = data[start + np.uint64(place)]
                seen |= byte
                out[at + np.uint64(place)] = byte
            if is_text and seen >= 0x80 and not is_utf8(data, begin[row], begin[row] + length[row]):
                codes[row] = BAD_UTF8
            else:
                at += size
        offsets[row + 1] = at


def source_of(*pieces: Callable[..., object]) -> str:
    """Text of a module head that defines the error codes and `pieces`, for a generated kernel."""
    lines = [f"{error.name} = {error.value}" for error in RowError]
    texts = [inspect.getsource(getattr(piece, "py_func", piece)) for piece in pieces]
    return "\n\n".join([_HEAD, "\n".join(lines), *texts])


_HEAD = '''"""Generated by service.avro; changing this file has no effect."""
from __future__ import annotations

import numpy as np
from numba import njit'''
