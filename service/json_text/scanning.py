"""Reading single JSON values in kernels: what is skipped, and numbers, text and times.

Flow: `service.json_text.reading` is made of these functions.

Invariants
  JS1  A reader looks at no byte at or beyond `end`, and answers the position behind the value, or
       -1 for whatever it leaves to the slow way: what is wrong, and what is rare (escapes in text,
       numbers that need care). It never answers a value that the slow way would not.
Source: RFC 8259 (JSON), RFC 3339 (times), Clinger 1990 for floats that need no rounding twice.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
#: An integer inside a kernel.
Place: TypeAlias = int | np.int64

_QUOTE, _BACKSLASH, _MINUS, _PLUS, _POINT = 34, 92, 45, 43, 46
_COMMA, _COLON, _OPEN, _CLOSE, _BEGIN, _END = 44, 58, 91, 93, 123, 125
_ZERO, _NINE = 48, 57
_DEPTH_MAX = 60
#: Powers of ten and whole numbers that a double holds exactly.
_TENS = 10.0 ** np.arange(23)
_EXACT_MAX = np.uint64(1 << 53)


@njit(nogil=True, forceinline=True)
def skip_blank(data: Bytes, at: Place, end: Place) -> Place:
    """The first byte that is no blank, or `end`."""
    while at < end and data[np.uint64(at)] <= 32:
        byte = data[np.uint64(at)]
        if byte != 32 and byte != 10 and byte != 13 and byte != 9:
            return at
        at += 1
    return at


@njit(nogil=True, forceinline=True)
def skip_text(data: Bytes, at: Place, end: Place) -> Place:
    """Behind the closing quote of a text that begins at `at`, behind its opening one."""
    while at < end:
        byte = data[np.uint64(at)]
        if byte == _QUOTE:
            return at + 1
        if byte < 32 or byte == _BACKSLASH:
            return -1
        at += 1
    return -1


@njit(nogil=True, forceinline=True)
def skip_digits(data: Bytes, at: Place, end: Place) -> Place:
    """Behind the digits at `at`."""
    while at < end and _ZERO <= data[np.uint64(at)] <= _NINE:
        at += 1
    return at


@njit(nogil=True)
def skip_number(data: Bytes, at: Place, end: Place) -> Place:
    """Behind a number."""
    if at < end and data[at] == _MINUS:
        at += 1
    first = at
    at = skip_digits(data, at, end)
    if at == first or (data[first] == _ZERO and at - first > 1):
        return -1
    if at < end and data[at] == _POINT:
        first = at + 1
        at = skip_digits(data, first, end)
        if at == first:
            return -1
    if at < end and data[at] | 32 == 101:  # e or E
        first = at + 1
        if first < end and (data[first] == _PLUS or data[first] == _MINUS):
            first += 1
        at = skip_digits(data, first, end)
        if at == first:
            return -1
    return at


@njit(nogil=True)
def is_word(data: Bytes, at: Place, end: Place, word: tuple[int, ...]) -> bool:
    """Whether these bytes stand at `at`."""
    if end - at < len(word):
        return False
    for place in range(len(word)):  # noqa: SIM110 - numba compiles no generator
        if data[at + place] != word[place]:
            return False
    return True


TRUE = tuple(b"true")
FALSE = tuple(b"false")
NULL = tuple(b"null")


@njit(nogil=True)
def skip_plain(data: Bytes, at: Place, end: Place) -> Place:
    """Behind a text, a number, true, false or null."""
    if at >= end:
        return -1
    byte = data[at]
    if byte == _QUOTE:
        return skip_text(data, at + 1, end)
    if byte == TRUE[0]:
        return at + 4 if is_word(data, at, end, TRUE) else -1
    if byte == FALSE[0]:
        return at + 5 if is_word(data, at, end, FALSE) else -1
    if byte == NULL[0]:
        return at + 4 if is_word(data, at, end, NULL) else -1
    return skip_number(data, at, end)


@njit(nogil=True)
def skip_key(data: Bytes, at: Place, end: Place) -> Place:
    """Behind a member's key and colon, at its value."""
    if at >= end or data[at] != _QUOTE:
        return -1
    at = skip_text(data, at + 1, end)
    if at < 0:
        return -1
    at = skip_blank(data, at, end)
    if at >= end or data[at] != _COLON:
        return -1
    return skip_blank(data, at + 1, end)


@njit(nogil=True)
def _behind(
    data: Bytes, at: Place, end: Place, depth: int, objects: np.uint64
) -> tuple[Place, int, np.uint64]:
    """From behind a value to the next one, out of all that ends here; depth -1: something else."""
    while depth:
        at = skip_blank(data, at, end)
        is_object = objects & np.uint64(1) == np.uint64(1)
        if at < end and data[at] == _COMMA:
            at = skip_blank(data, at + 1, end)
            at = skip_key(data, at, end) if is_object else np.int64(at)
            return at, (depth if at >= 0 else -1), objects
        if at >= end or data[at] != (_END if is_object else _CLOSE):
            return at, -1, objects
        at += 1
        depth -= 1
        objects >>= np.uint64(1)
    return at, 0, objects


@njit(nogil=True)
def skip_value(data: Bytes, at: Place, end: Place) -> Place:
    """Behind any value; objects and arrays that lie deeper than 60 are left to the slow way."""
    objects = np.uint64(0)  # One bit a level: whether it is an object.
    depth = 0
    while True:
        if at < end and (data[at] == _BEGIN or data[at] == _OPEN):
            is_object = data[at] == _BEGIN
            at = skip_blank(data, at + 1, end)
            if at >= end or depth == _DEPTH_MAX:
                return -1
            if data[at] != (_END if is_object else _CLOSE):
                depth += 1
                objects = (objects << np.uint64(1)) | np.uint64(is_object)
                at = skip_key(data, at, end) if is_object else np.int64(at)
                if at < 0:
                    return -1
                continue
            at += 1
        else:
            at = skip_plain(data, at, end)
            if at < 0:
                return -1
        at, depth, objects = _behind(data, at, end, depth, objects)
        if depth <= 0:
            return at if depth == 0 else -1


@njit(nogil=True, forceinline=True)
def read_long(data: Bytes, at: Place, end: Place) -> tuple[np.int64, Place]:
    """A whole number of at most 18 digits, written without point and exponent."""
    negative = at < end and data[np.uint64(at)] == _MINUS
    if negative:
        at += 1
    first = at
    value = np.int64(0)
    while at < end and _ZERO <= data[np.uint64(at)] <= _NINE:
        value = value * 10 + np.int64(data[np.uint64(at)] - _ZERO)
        at += 1
        if at - first > 18:
            return np.int64(0), np.int64(-1)
    if at == first or (data[np.uint64(first)] == _ZERO and at - first > 1):
        return np.int64(0), np.int64(-1)
    if at < end and (data[np.uint64(at)] == _POINT or data[np.uint64(at)] | 32 == 101):
        return np.int64(0), np.int64(-1)
    return (-value if negative else value), np.int64(at)


@njit(nogil=True)
def read_double(data: Bytes, at: Place, end: Place) -> tuple[float, Place]:
    """A number whose digits and power of ten are exact as doubles: one rounding gives the best."""
    behind = skip_number(data, at, end)
    if behind < 0:
        return 0.0, np.int64(-1)
    negative = data[at] == _MINUS
    digits, is_fraction = np.uint64(0), False
    power: Place = 0
    place = at + 1 if negative else at
    while place < behind and data[place] | 32 != 101:
        if data[place] == _POINT:
            is_fraction = True
        else:
            digits = digits * np.uint64(10) + np.uint64(data[place] - _ZERO)
            if digits > _EXACT_MAX:
                return 0.0, np.int64(-1)
            power -= is_fraction
        place += 1
    if place < behind:
        place += 1
        down = data[place] == _MINUS
        if down or data[place] == _PLUS:
            place += 1
        exponent: Place = 0
        while place < behind:
            exponent = exponent * 10 + np.int64(data[place]) - _ZERO
            if exponent > 400:
                return 0.0, np.int64(-1)
            place += 1
        power += -exponent if down else exponent
    if not -22 <= power <= 22:
        return 0.0, np.int64(-1)
    value = float(digits)
    value = value * _TENS[power] if power >= 0 else value / _TENS[-power]
    return (-value if negative else value), np.int64(behind)


@njit(nogil=True)
def _two(data: Bytes, at: Place) -> Place:
    """Two digits, or -1."""
    tens, ones = np.int64(data[at]) - _ZERO, np.int64(data[at + 1]) - _ZERO
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else -1


@njit(nogil=True)
def read_time(data: Bytes, at: Place, end: Place) -> tuple[np.int64, Place]:
    """A text such as "2026-11-22T05:23:11.123Z" as milliseconds since 1970, further digits dropped.

    `at` is behind the opening quote. Without Z or an offset, and in other forms of ISO 8601, it is
    left to the slow way.
    """
    wrong = np.int64(0), np.int64(-1)
    behind = skip_text(data, at, end)
    if behind - at < 21:  # 2026-11-22T05:23:11Z and the quote
        return wrong
    last = behind - 1
    high, low = _two(data, at), _two(data, at + 2)
    month, day = _two(data, at + 5), _two(data, at + 8)
    hour, minute, second = _two(data, at + 11), _two(data, at + 14), _two(data, at + 17)
    if min(high, low, month, day, hour, minute, second) < 0:
        return wrong
    marks = data[at + 4] == _MINUS and data[at + 7] == _MINUS and data[at + 10] == 84
    marks = marks and data[at + 13] == _COLON and data[at + 16] == _COLON
    year = high * 100 + low
    if not marks or not (year >= 1 and 1 <= month <= 12 and hour < 24 and max(minute, second) < 60):
        return wrong
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = 30 + ((month + (month > 7)) & 1) if month != 2 else 28 + leap
    if not 1 <= day <= days:
        return wrong
    at += 19
    millis: Place = 0
    if data[at] == _POINT:
        first = at + 1
        at = skip_digits(data, first, last)
        if at == first:
            return wrong
        scale = 100
        for place in range(first, min(at, first + 3)):
            millis += scale * (np.int64(data[place]) - _ZERO)
            scale //= 10
    if at != last - 1 or data[at] != 90:  # Z
        return wrong
    # Days since 1970 by the civil calendar, March as the first month of a year.
    shifted = year - (month <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    number = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    seconds = ((number * 24 + hour) * 60 + minute) * 60 + second
    return np.int64(seconds * 1_000 + millis), np.int64(behind)
