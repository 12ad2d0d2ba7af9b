"""Why a row could not be decoded: one small number per row, with a sentence for people.

Flow: kernels write the numbers -> ingest.decode turns those of bad rows into words.
"""

from __future__ import annotations

from enum import IntEnum


class RowError(IntEnum):
    """Why a row could not be decoded; 0 means that it could."""

    OK = 0
    OUT_OF_BOUNDS = 1
    TRUNCATED = 2
    TRAILING_BYTES = 3
    VARINT_OVERFLOW = 4
    INT_OUT_OF_RANGE = 5
    BAD_LENGTH = 6
    BAD_UNION_INDEX = 7
    BAD_BOOLEAN = 8
    BAD_ENUM_INDEX = 9
    BAD_UTF8 = 10
    UNDECODABLE = 11

    @property
    def slug(self) -> str:
        """The reason as one word, fit for a metric's label."""
        return self.name.lower()

    @property
    def text(self) -> str:
        """The reason in words, as it stands in a dead letter."""
        return _TEXTS[self]


_TEXTS = {
    RowError.OK: "good",
    RowError.OUT_OF_BOUNDS: "record lies outside the buffer",
    RowError.TRUNCATED: "record ends within a field",
    RowError.TRAILING_BYTES: "bytes are left after the last field",
    RowError.VARINT_OVERFLOW: "integer takes more than 10 bytes or 64 bits",
    RowError.INT_OUT_OF_RANGE: "int field holds more than 32 bits",
    RowError.BAD_LENGTH: "length is negative or greater than the rest of the record",
    RowError.BAD_UNION_INDEX: "union has no branch of that index",
    RowError.BAD_BOOLEAN: "boolean is neither 0 nor 1",
    RowError.BAD_ENUM_INDEX: "enum has no symbol of that index",
    RowError.BAD_UTF8: "string is not valid UTF-8",
    RowError.UNDECODABLE: "fastavro cannot decode the record",
}
