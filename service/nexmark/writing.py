"""Kernel that writes NEXMark rows as messages, in whatever form a plan says.

Flow: rows of numbers, order -> [write] with a Plan -> messages one behind the other.
Private to `service.nexmark.events` and `wire`, which makes the plans.

The theory. A form is data: for each kind of event a list of steps, each of which copies some ready
bytes and then writes one field in one of four ways. Avro, JSON and their variants differ in their
plans only, so one kernel writes them all and no form can drift from the fields.

Invariants
  W1  A message is the steps of its kind, in order, and nothing else.
  W2  A written row takes at most the bytes that `wire.message_bytes_max` says.

Source: Avro 1.12 "Binary encoding"; the calendar by days since 0000-03-01 (Hinnant,
        "chrono-compatible low-level date algorithms").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.nexmark.copying import BLOCK, copy_block

Bytes = NDArray[np.uint8]
Longs = NDArray[np.int64]
Int = int | np.int64

VARINT_BYTES_MAX = 10
DECIMAL_BYTES_MAX = 20
ISO_BYTES = 24

# How a step writes its field.
NOTHING = 0
VARINT = 1
DECIMAL = 2
TEXT = 3
ISO = 4

_MS_PER_DAY = 86_400_000


class Plan(NamedTuple):
    """What each kind's messages consist of."""

    #: Ready bytes and BLOCK more: first the literals of the steps, then the texts of fields.
    ready: Bytes
    #: Where each begins, and the last one ends.
    starts: Longs
    #: Number of the first text among them.
    texts: int
    #: kinds x steps x (number of the literal, how the field is written, column of the field).
    steps: NDArray[np.int32]
    #: Steps of each kind.
    counts: NDArray[np.int32]


@njit(inline="always")
def _put_ready(out: Bytes, at: np.uint64, number: Int, ready: Bytes, starts: Longs) -> np.uint64:
    start = np.uint64(starts[number])
    length = np.uint64(starts[number + 1]) - start
    for block in range(np.uint64(0), length, np.uint64(BLOCK)):
        copy_block(out, at + block, ready, start + block)
    return at + length


@njit(inline="always")
def _put_varint(out: Bytes, at: np.uint64, value: Int) -> np.uint64:
    rest = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> np.int64(63))
    while rest >= np.uint64(0x80):
        out[at] = np.uint8(rest) | np.uint8(0x80)
        rest >>= np.uint64(7)
        at += np.uint64(1)
    out[at] = np.uint8(rest)
    return at + np.uint64(1)


@njit(inline="always")
def _put_digits(out: Bytes, at: np.uint64, value: np.uint64, width: np.uint64) -> np.uint64:
    """Write the last `width` digits of a number."""
    rest = value
    for i in range(width):
        out[at + width - np.uint64(1) - np.uint64(i)] = np.uint8(
            np.uint64(48) + rest % np.uint64(10)
        )
        rest //= np.uint64(10)
    return at + width


@njit(inline="always")
def _put_decimal(out: Bytes, at: np.uint64, value: Int) -> np.uint64:
    rest = np.uint64(value)
    if value < 0:
        out[at] = np.uint8(45)
        at += np.uint64(1)
        rest = ~rest + np.uint64(1)
    width = np.uint64(1)
    bound = np.uint64(10)
    while width < np.uint64(20) and rest >= bound:
        width += np.uint64(1)
        # The last bound leaves 64 bits; the width then ends the loop before it is compared.
        bound *= np.uint64(10)
    return _put_digits(out, at, rest, width)


@njit(inline="always")
def _put_iso(out: Bytes, at: np.uint64, time_ms: Int) -> np.uint64:
    """Write a time of the years 0 to 9999 as 2026-11-22T05:23:11.123Z."""
    days = time_ms // _MS_PER_DAY
    rest = np.uint64(time_ms - days * _MS_PER_DAY)
    # Counted from March, the leap day is the last of its year; an era is 400 years.
    shifted = days + 719_468
    era = shifted // 146_097
    day_of_era = shifted - era * 146_097
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * from_march + 2) // 5 + 1
    month = from_march + 3 if from_march < 10 else from_march - 9
    year = era * 400 + year_of_era + (1 if month <= 2 else 0)
    at = _put_digits(out, at, np.uint64(year), np.uint64(4))
    out[at] = np.uint8(45)
    at = _put_digits(out, at + np.uint64(1), np.uint64(month), np.uint64(2))
    out[at] = np.uint8(45)
    at = _put_digits(out, at + np.uint64(1), np.uint64(day), np.uint64(2))
    out[at] = np.uint8(84)
    at = _put_digits(out, at + np.uint64(1), rest // np.uint64(3_600_000), np.uint64(2))
    out[at] = np.uint8(58)
    minutes = rest // np.uint64(60_000) % np.uint64(60)
    at = _put_digits(out, at + np.uint64(1), minutes, np.uint64(2))
    out[at] = np.uint8(58)
    seconds = rest // np.uint64(1_000) % np.uint64(60)
    at = _put_digits(out, at + np.uint64(1), seconds, np.uint64(2))
    out[at] = np.uint8(46)
    at = _put_digits(out, at + np.uint64(1), rest % np.uint64(1_000), np.uint64(3))
    out[at] = np.uint8(90)
    return at + np.uint64(1)


@njit(cache=True)
def write(
    rows: Longs,
    kinds: NDArray[np.uint8],
    order: Longs,
    plan: Plan,
    out: Bytes,
    offsets: NDArray[np.int32],
) -> None:
    """Write the rows in `order`, one behind the other (W1).

    Args:
        rows: n x 10 fields, texts as their numbers, as `generator.fields` writes them.
        kinds: n kinds.
        order: n row numbers; row `order[j]` becomes message j.
        plan: of the form wanted.
        out: receives the bytes; BLOCK bytes more than they can need (W2).
        offsets: n + 1; receives where message j starts and the last one ends.

    Cost: 30 to 40 ns per Avro message, three times that for JSON.
    """
    at = np.uint64(0)
    for j in range(order.shape[0]):
        offsets[j] = at
        i = order[j]
        kind = kinds[i]
        for s in range(plan.counts[kind]):
            literal = plan.steps[kind, s, 0]
            form = plan.steps[kind, s, 1]
            at = _put_ready(out, at, literal, plan.ready, plan.starts)
            if form == NOTHING:
                continue
            value = rows[i, plan.steps[kind, s, 2]]
            if form == VARINT:
                at = _put_varint(out, at, value)
            elif form == TEXT:
                at = _put_ready(out, at, plan.texts + value, plan.ready, plan.starts)
            elif form == DECIMAL:
                at = _put_decimal(out, at, value)
            else:
                at = _put_iso(out, at, value)
    offsets[order.shape[0]] = at
