"""The windows that stored state keeps for one key, and what was computed of each so far.

Flow: what a checkpoint or a snapshot has of a key's bin -> [entries_of_key] of panes -> [of_panes];
a key's rows or object -> [of_rows, of_object] -> OpenWindows -> `megaphone state get`.

A window is open until nothing can change what it gives. With `allowed_lateness` it may have been
given before; of windows that are put together from panes those count as open that were when their
bin last closed one.

Invariants
  OP1  A window's value is what the vertex would give of it if it closed now, as state columns:
       floats are added in the same order (WI1 of `window_store`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.statestore import _window_kernels as kernels
from service.statestore.panes import Panes
from service.statestore.session_rows import TIME, session_of
from service.statestore.stored_cells import cell_of, number_named
from service.statestore.stored_windows import Fold, StoredWindows
from service.statestore.timed import NEVER
from service.statestore.window_ranks import RANK
from service.statestore.window_rows import GIVE, OWN_END, OWN_START
from service.statestore.window_sessions import STATE_OF
from service.statestore.window_table import OF_KEY, OF_PANE, OF_START

Int64s = NDArray[np.int64]
Columns = Sequence[tuple[str, str]]
Row = dict[str, object]

#: Lines of an entry: its key, its pane, and its window's start where rows say that.
_KEY, _PANE, _START = 0, 1, 2
#: State columns that nobody is given.
_OWN = "window."
_INT64 = np.iinfo(np.int64)


class OpenWindow(msgspec.Struct, frozen=True):
    """One window of a key; its bounds in the unit of the stream's event times."""

    start: int
    end: int
    #: Whether its result was given, so that it waits for late rows alone.
    given: bool
    #: Aggregates as state columns by name, a list of rows, or what a function accumulated.
    value: object


def keeps_panes(columns: Columns) -> bool:
    """Whether entries with these columns are those of `window_table`."""
    return [name for name, _ in columns[:2]] == [OF_KEY.name, OF_PANE.name]


def mark_of(bin_id: int, bin_bits: int) -> int:
    """The id of the bin's mark (WI3 of `window_store`)."""
    mark = np.empty(1, dtype=np.int64)
    kernels.mark_of(np.array([bin_id], dtype=np.int64), bin_bits, mark)
    return int(mark[0])


def entries_of_key(
    ids: Int64s, kept: Sequence[bytes], bin_id: int, bin_bits: int, key: int | None
) -> tuple[Int64s, int]:
    """The entries of a key among those of its bin, and the end of the last window given.

    Args:
        ids: of the entries, the bin's mark perhaps among them.
        kept: of each its version, its identity and its state.
        bin_id: the bin.
        bin_bits: 0..20.
        key: whose; None: all are the key's.

    Returns:
        A line for each column, and the end; NEVER where the bin does not say.

    Raises:
        StateCorrupt: an entry has another length.
    """
    if len(set(map(len, kept))) > 1 or any(len(each) % 8 for each in kept):
        raise StateCorrupt(f"entries of windows in bin {bin_id} differ in length")
    cells = np.frombuffer(b"".join(kept), dtype="<i8").astype(np.int64)
    lines = cells.reshape(len(kept), -1).T[1:] if len(kept) else np.empty((2, 0), dtype=np.int64)
    marks = ids == mark_of(bin_id, bin_bits)
    given = int(lines[_KEY, marks].max(initial=NEVER))
    wanted = ~marks if key is None else ~marks & (lines[_KEY] == key)
    return np.ascontiguousarray(lines[:, wanted]), given


def of_panes(
    columns: Columns, windows: StoredWindows, lines: Int64s, given: int
) -> tuple[OpenWindow, ...]:
    """The windows that a key's entries, a line for each column, belong to; by end and start.

    Raises:
        StateCorrupt: the columns are not those that `windows` is of.
        StateError: a sum does not fit into 64 bits.
    """
    names = [name for name, _ in columns]
    own = len(names) - len(windows.folds)
    if len(lines) != len(names) or own < 2:
        raise StateCorrupt(f"entries of windows have {len(lines)} columns, not {len(names)}")
    panes = Panes.given(windows.lateness)
    if windows.size:
        panes = Panes.of(windows.size, windows.every, windows.lateness)
    # In a pane in the order in which the store puts its entries together.
    lines = lines[:, np.lexsort((*lines[:own], lines[_PANE]))]
    has_start = OF_START.name in names
    values = slice(_START + has_start, own)
    found = []
    for start in np.unique(lines[_START]).tolist() if has_start else [None]:
        mine = lines if start is None else lines[:, lines[_START] == start]
        for window in _windows(panes, np.unique(mine[_PANE]).tolist(), given):
            of = panes.panes(window)
            first, last = np.searchsorted(mine[_PANE], (of.start, of.stop)).tolist()
            part = mine[:, first:last]
            begin, end = panes.bounds(window)
            if not windows.size:
                begin = int(part[_KEY, 0]) if start is None else start
            value = _value(columns[own:], windows.folds, part[own:])
            if windows.counted:
                value[windows.counted] = int(np.unique(part[values], axis=1).shape[1])
            found.append(OpenWindow(begin, end, end <= given, value))
    return tuple(sorted(found, key=lambda each: (each.end, each.start)))


def _windows(panes: Panes, kept: Iterable[int], given: int) -> list[int]:
    """Windows of these panes that were open when the window that ends at `given` was given."""
    first = None
    if given > NEVER:
        # The first one whose end and lateness come after it.
        first = (given - panes.lateness - panes.size) // panes.every + 1
    numbers: set[int] = set()
    for pane in kept:
        least, most = panes.windows(pane)
        numbers.update(range(least if first is None else max(least, first), most + 1))
    return sorted(numbers)


def _value(columns: Columns, folds: Sequence[Fold], parts: Int64s) -> dict[str, object]:
    """State columns of several parts put together."""
    return {
        name: cell_of(_folded(name, kind, fold, line), kind)
        for (name, kind), fold, line in zip(columns, folds, parts, strict=True)
        if not name.startswith(_OWN)
    }


def _folded(name: str, kind: str, fold: Fold, line: Int64s) -> Int64s:
    """One column's cell of several parts, at least one."""
    known = number_named(kind)
    if known is not None and known.kept == "float64":
        values = np.ascontiguousarray(line).view(np.float64)
        if fold == "sum":
            # One after the other: NumPy's own sum would be another one.
            return np.cumsum(np.concatenate(([0.0], values)))[-1:].view(np.int64)
        of_floats = values.max() if fold == "greatest" else values.min()
        return np.array([of_floats], dtype=np.float64).view(np.int64)
    if fold != "sum":
        return np.array([line.max() if fold == "greatest" else line.min()], dtype=np.int64)
    # Halves, so that no sum of them overflows.
    total = (int((line >> 32).sum()) << 32) + int((line & 0xFFFFFFFF).sum())
    if not _INT64.min <= total <= _INT64.max:
        raise StateError(
            f"the sum {name!r} of a window does not fit into a signed 64-bit integer; sum a "
            "float64 column or a smaller unit"
        )
    return np.array([total], dtype=np.int64)


def of_rows(
    windows: StoredWindows, groups: Sequence[Sequence[Row]], timers: Iterable[tuple[int, int]]
) -> tuple[OpenWindow, ...]:
    """The windows of a key whose state is typed rows, by end and start.

    Args:
        windows: how they are kept.
        groups: the key's rows; a second group is that of single rows of sessions.
        timers: time and tag of each of the key's.

    Raises:
        StateCorrupt: a row of the second group is in none of the sessions.
    """
    rows = groups[0]
    waits = {time for time, tag in timers if tag == GIVE}
    by_window: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        start, end = row[OWN_START], row[OWN_END]
        assert isinstance(start, int), "as `window_rows` keeps it"
        assert isinstance(end, int), "as `window_rows` keeps it"
        by_window.setdefault((end, start), []).append(row)
    single = _single_rows(by_window, groups[1]) if len(groups) > 1 else by_window
    found = []
    for (end, start), own in sorted(by_window.items()):
        value: object
        if windows.columns:
            (row,) = own
            value = {
                name: cell_of(np.array([row[f"{STATE_OF}{name}"]], dtype=np.int64), kind)
                for name, kind in windows.columns
                if not name.startswith(_OWN)
            }
            if windows.counted:
                value[windows.counted] = len(single[end, start])
        else:
            # Stable: without ties, of equal rows the first one is given first.
            value = [
                {name: cell for name, cell in row.items() if not name.startswith(_OWN)}
                for row in sorted(single[end, start], key=_rank, reverse=True)
            ]
        found.append(OpenWindow(start, end, end not in waits, value))
    return tuple(found)


def _single_rows(
    sessions: Iterable[tuple[int, int]], rows: Sequence[Row]
) -> dict[tuple[int, int], list[Row]]:
    """The rows of the second group that each session has, by its end and start."""
    found: dict[tuple[int, int], list[Row]] = {bounds: [] for bounds in sessions}
    known = list(found)
    ends, starts = np.array(known, dtype=np.int64).reshape(-1, 2).T
    spans = np.array([np.zeros(len(known), dtype=np.int64), starts, ends])
    times = np.array([row[TIME] for row in rows], dtype=np.int64)
    numbers = session_of(spans, np.zeros(len(rows), dtype=np.int64), times)
    for row, number in zip(rows, numbers.tolist(), strict=True):
        if number < 0:
            raise StateCorrupt(f"a row of time {row[TIME]} is in none of its key's sessions")
        found[known[number]].append(row)
    return found


def _rank(row: Row) -> int:
    rank = row[RANK]
    assert isinstance(rank, int), "as `window_ranks` makes it"
    return rank


def of_object(state: object, times: Iterable[int]) -> tuple[OpenWindow, ...]:
    """The windows of a key whose state is an object by start and end, by end and start.

    Args:
        state: as `object_json` describes it; None if there is none.
        times: of the key's timers.

    Raises:
        StateCorrupt: it is no such object.
    """
    waits = set(times)
    found = []
    try:
        for bounds, value in state["value"] if isinstance(state, dict) else ():
            start, end = bounds["value"]
            found.append(OpenWindow(start, end, end not in waits, value))
    except (KeyError, TypeError, ValueError) as error:
        raise StateCorrupt(f"a state of windows is no dict by start and end: {error}") from error
    return tuple(sorted(found, key=lambda each: (each.end, each.start)))
