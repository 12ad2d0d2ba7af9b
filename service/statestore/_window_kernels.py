"""Kernels of windows: panes of rows, the ids of entries, and keys met again in several panes.

Flow: a batch's keys and times -> [assign] -> panes -> [identify] -> ids, under which `KeyedTable`
keeps the entries -> [claim] compares whose they are. A window that closes: [gather] its panes'
entries -> [number] their keys -> the folds of `_folds`.

*Identity* is what tells one entry from another: lines of int64, the key first, then its pane, and
of windows that rows bring along also their start. It is kept in the first state columns.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.hashing import mix64
from service.statestore import _signatures as kinds
from service.statestore._kernels import AHEAD, TOUCHED_STATE
from service.statestore._layout import FIRST_COLUMN, Int64s
from service.statestore._prefetch import prefetch

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1


@njit(inline="always")
def _unmix64(hashed: np.uint64) -> np.uint64:
    """The number whose `mix64` this is."""
    x = hashed ^ (hashed >> np.uint64(31)) ^ (hashed >> np.uint64(62))
    x = x * np.uint64(0x319642B2D24D8EC3)
    x = x ^ (x >> np.uint64(27)) ^ (x >> np.uint64(54))
    x = x * np.uint64(0x96DE1B173F119089)
    x = x ^ (x >> np.uint64(30)) ^ (x >> np.uint64(60))
    return x - np.uint64(0x9E3779B97F4A7C15)


@njit(kinds.ASSIGN, cache=True, nogil=True)
def assign(
    times: NDArray[np.int64],
    pane: int,
    first: int,
    panes: NDArray[np.int64],
    late: NDArray[np.bool_],
) -> int:
    """The pane of each row; those before pane `first` are late. Returns how many are.

    Args:
        times: of n rows, any int64.
        pane: length of a pane, above 0.
        first: the first pane that is not forgotten.
        panes: out, n numbers of panes, floored.
        late: out, for each row.
    """
    count = 0
    for row in range(times.shape[0]):
        time = times[row]
        number = time // pane
        panes[row] = number
        late[row] = number < first
        count += number < first
    return count


@njit(kinds.TUMBLE, cache=True, nogil=True)
def tumble(
    times: NDArray[np.int64], size: int, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> None:
    """Start and end of the window of each time, of windows of one size that follow one another.

    Both are cut off at the ends of int64. Times mostly lie in the window of the one before.
    """
    for row in range(times.shape[0]):
        time = times[row]
        if row > 0 and starts[row - 1] <= time and time < ends[row - 1]:
            starts[row], ends[row] = starts[row - 1], ends[row - 1]
            continue
        rest = time % size
        left = size - rest
        starts[row] = time - rest if time >= _FIRST + rest else _FIRST
        ends[row] = time + left if time <= _LAST - left else _LAST


@njit(kinds.IDENTIFY, cache=True, nogil=True)
def identify(
    identity: Int64s, bin_bits: int, salt: int, hash_bits: int, ids: NDArray[np.int64]
) -> None:
    """An id for each entry that says the key's bin, and otherwise is a hash of all of it.

    No id is one of those that `mark_of` gives.

    Args:
        identity: lines of n entries, the key first.
        bin_bits: 0..20.
        salt: another one gives another id.
        hash_bits: of the 64 less bin_bits bits of the hash so many are used.
        ids: out.
    """
    low = ~np.uint64(0) >> np.uint64(bin_bits)
    used = ~np.uint64(0) >> np.uint64(64 - hash_bits)
    for row in range(identity.shape[1]):
        key = mix64(np.uint64(identity[0, row]))
        hashed = key + np.uint64(salt)
        for line in range(1, identity.shape[0]):
            hashed = mix64(hashed ^ np.uint64(identity[line, row]))
        rest = hashed & low & used
        if rest == np.uint64(0):
            rest = np.uint64(1)
        ids[row] = np.int64(_unmix64((key & ~low) | rest))


@njit(kinds.MARK_OF, cache=True, nogil=True)
def mark_of(bins: NDArray[np.int64], bin_bits: int, ids: NDArray[np.int64]) -> None:
    """The id of each bin that no entry has."""
    for row in range(bins.shape[0]):
        hashed = np.uint64(0)
        if bin_bits > 0:
            hashed = np.uint64(bins[row]) << np.uint64(64 - bin_bits)
        ids[row] = np.int64(_unmix64(hashed))


@njit(kinds.CLAIM, cache=True, nogil=True)
def claim(
    positions: NDArray[np.int32],
    new: NDArray[np.int64],
    identity: Int64s,
    count: int,
    touched: Int64s,
) -> int:
    """Write whose the new entries are, and compare the others.

    Args:
        positions: of each row among the touched entries.
        new: touched entries that the table did not have.
        identity: of each row.
        count: of touched entries.
        touched: what `touch` gave of them; the first state columns are their identity.

    Returns:
        How many rows met an entry that is another's.
    """
    fresh = np.zeros(count, dtype=np.bool_)
    for number in range(new.shape[0]):
        fresh[new[number]] = True
    wrong = 0
    lines = identity.shape[0]
    for row in range(positions.shape[0]):
        position = positions[row]
        if fresh[position]:
            fresh[position] = False
            for line in range(lines):
                touched[TOUCHED_STATE + line, position] = identity[line, row]
            continue
        for line in range(lines):
            if touched[TOUCHED_STATE + line, position] != identity[line, row]:
                wrong += 1
                break
    return wrong


@njit(kinds.GATHER, cache=True, nogil=True)
def gather(cells: Int64s, slots: NDArray[np.int64], lines: Int64s) -> None:
    """The state columns of the rows at these slots, a line each."""
    for row in range(slots.shape[0]):
        if row + AHEAD < slots.shape[0]:
            prefetch(cells, slots[row + AHEAD])
        slot = slots[row]
        for line in range(lines.shape[0]):
            lines[line, row] = cells[slot, FIRST_COLUMN + line]


@njit(kinds.NUMBER, cache=True, nogil=True)
def number(
    keys: NDArray[np.int64],
    table: NDArray[np.int32],
    positions: NDArray[np.int32],
    distinct: NDArray[np.int64],
) -> int:
    """Number the distinct keys in order of first occurrence; returns how many there are.

    Args:
        keys: n keys.
        table: room to work: a power of two above n, all -1.
        positions: out, the number of each row's key.
        distinct: out, the keys; at least n long.
    """
    mask = table.shape[0] - 1
    count = 0
    for row in range(keys.shape[0]):
        key = keys[row]
        place = np.int64(mix64(np.uint64(key))) & mask
        while table[place] >= 0 and distinct[table[place]] != key:
            place = (place + 1) & mask
        if table[place] < 0:
            table[place] = count
            distinct[count] = key
            count += 1
        positions[row] = table[place]
    return count


@njit(kinds.GROUP, cache=True, nogil=True)
def group(
    identity: Int64s,
    table: NDArray[np.int32],
    positions: NDArray[np.int32],
    first: NDArray[np.int64],
) -> int:
    """Number the distinct identities in order of first occurrence; returns how many there are.

    Args:
        identity: lines of n entries.
        table: room to work: a power of two above n, all -1.
        positions: out, the number of each row's identity.
        first: out, the first row of each; at least n long.
    """
    mask = table.shape[0] - 1
    count = 0
    for row in range(identity.shape[1]):
        # Windows of all rows come in long runs.
        again = row > 0
        for line in range(identity.shape[0]):
            again = again and identity[line, row] == identity[line, row - 1]
        if again:
            positions[row] = positions[row - 1]
            continue
        hashed = np.uint64(0)
        for line in range(identity.shape[0]):
            hashed = mix64(hashed ^ np.uint64(identity[line, row]))
        place = np.int64(hashed) & mask
        while table[place] >= 0:
            other = first[table[place]]
            same = True
            for line in range(identity.shape[0]):
                same = same and identity[line, row] == identity[line, other]
            if same:
                break
            place = (place + 1) & mask
        if table[place] < 0:
            table[place] = count
            first[count] = row
            count += 1
        positions[row] = table[place]
    return count


@njit(kinds.SESSIONS, cache=True, nogil=True)
def sessions(parts: Int64s, session: NDArray[np.int64], spans: Int64s) -> int:
    """Put parts of sessions that overlap together; returns how many sessions there are.

    Args:
        parts: lines of keys, starts and ends, by key and start.
        session: out, the number of each part's session.
        spans: out, lines of keys, starts and ends of the sessions; at least as wide.
    """
    count = 0
    for part in range(parts.shape[1]):
        key, start, end = parts[0, part], parts[1, part], parts[2, part]
        last = count - 1
        # One that ends with int64 is cut off there, so nothing begins behind it.
        inside = count > 0 and (start < spans[2, last] or spans[2, last] == _LAST)
        if inside and spans[0, last] == key:
            spans[2, last] = max(spans[2, last], end)
        else:
            spans[0, count], spans[1, count], spans[2, count] = key, start, end
            count += 1
        session[part] = count - 1
    return count


@njit(kinds.FINGERPRINT, cache=True, nogil=True)
def fingerprint(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.int64]
) -> None:
    """A hash of each text that is another one than `hash_texts` gives; see there."""
    for row in range(out.shape[0]):
        at, end = offsets[row], offsets[row + 1]
        hashed = mix64(~np.uint64(end - at))
        while at < end:
            word = np.uint64(0)
            for byte in range(min(end - at, 8)):
                word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
            hashed = mix64(hashed + mix64(word))
            at += 8
        out[row] = np.int64(hashed)
