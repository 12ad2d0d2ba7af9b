"""The memory behind an arena: address space reserved once, given back page by page.

Flow: a table makes its arrays by [new_arena]; whenever regions were released it calls [give_back],
or tells a [Keeper], which keeps some memory for regions to come, and finds some before they come.

Invariants
  ME1  What the arena holds never depends on the system: memory that is given back, or found before
       it is needed, is no part of a region in use, and what is found reads zero.
  ME2  Memory that was released and stays is bounded by the keeper's `most_bytes`, and so is memory
       that was found and is not needed yet; neither outlives ten rests, but for what a thread is
       just about to find.

Source: Linux, madvise(2), MADV_POPULATE_WRITE.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
from contextlib import suppress

import numpy as np

from service.errors import StateError
from service.statestore import _layout, _regions
from service.statestore._layout import Arena, Int64s

#: Address space reserved for one table; the memory behind it is taken page by page, on first use.
RESERVED_BYTES = 1 << 38
_RESERVED_BYTES_LEAST = 1 << 30
#: Linux' MAP_NORESERVE, which the mmap module does not name in every version.
_MAP_NORESERVE = 0x4000
#: The first part of a table keeps small pages, so that a small table takes little memory; the rest
#: takes large ones. [measured: 16 M keys are applied 3 times as fast on large pages, 1 M keys 1.3
#: times; growing to 2.6 M rows by 16,384 a batch, the longest batch takes 2.3 ms of processor time
#: with large pages and 5 ms with small ones, but 12 ms with large ones that the machine below a
#: virtual one has yet to find]
_SMALL_PAGES_BYTES = 4 << 20
#: After so many rests in a row no memory is kept.
_RESTS = 10
#: Linux' MADV_POPULATE_WRITE, since 5.14: pages are there, and what is in them stays.
_MADV_POPULATE_WRITE = 23
#: Memory is found by so much at once, so that whoever maps memory meanwhile need not wait.
_FOUND_BYTES = 2 << 20
#: Less than this is found as it is needed.
_FOUND_BYTES_LEAST = 4 << 20
#: A thread that finds memory gets only what the others leave: where memory is slow to find, finding
#: it costs as much processor time as all records. [measured: first waves of 16 M keys at 1 M
#: records/s a worker, in turns, four pairs: records wait 288 ms at most as memory is found where it
#: is needed, 45 with this; 338 in three runs before with a thread as nice as the others]
_NICER = 19
#: Ranges of memory given back in one call, at most; see `_regions.returnable`.
_RANGES = _layout.RELEASED_MAX + 2


def new_arena(
    bins: int, width: int, reserved_bytes: int, *, loads: Int64s, initial: Int64s
) -> tuple[Arena, mmap.mmap]:
    """The arrays of an empty table, and the memory of its cells.

    Args:
        bins: number of bins.
        width: cells of a slot.
        reserved_bytes: address space for all slots together.
        loads: see `Arena`.
        initial: see `Arena`.

    Raises:
        StateError: the system grants no address space.
    """
    memory = _reserve(reserved_bytes)
    capacity = len(memory) // (8 * width)
    cells = np.frombuffer(memory, dtype=np.int64, count=capacity * width)
    markers = _reserve((capacity >> _layout.SMALLEST) + 1)
    arena = Arena(
        cells=cells.reshape(capacity, width),
        markers=np.frombuffer(markers, dtype=np.int8),
        space=_regions.new_space(capacity),
        regions=np.zeros(bins, dtype=np.int64),
        rows=np.zeros(bins, dtype=np.int64),
        loads=loads,
        initial=initial,
    )
    return arena, memory


def give_back(arena: Arena, memory: mmap.mmap) -> None:
    """Let the system have the memory of regions released since the last call (R5)."""
    page = mmap.PAGESIZE
    ranges = np.empty((_RANGES, 2), dtype=np.int64)
    count = _regions.returnable(arena, page, ranges)
    end, behind = ranges[0].tolist()
    try:
        for start, nbytes in ranges[:count].tolist():
            if nbytes:
                memory.madvise(mmap.MADV_DONTNEED, start, nbytes)
    except OSError:
        # Memory that is locked stays; nothing but its size depends on this.
        return
    if behind:
        arena.space[_layout.HIGH_WATER] = -(-end // (8 * arena.cells.shape[1]))


class Keeper:
    """Memory of one table that was released: it stays a while for what comes, if it is not much.

    Memory that is taken anew costs 0.1 to 0.4 ms a MiB, and 4 where the machine below a virtual one
    has yet to find it.
    """

    def __init__(self, arena: Arena, memory: mmap.mmap) -> None:
        """Keep nothing."""
        self._arena = arena
        self._memory = memory
        #: Bytes that may stay.
        self.most_bytes = 0
        #: Most slots in use since memory was given back, and rests since something was released.
        self._most_in_use = self._rests = 0
        #: Bytes of the table that were found, or are being found, before they are needed.
        self._found = range(0)
        #: Set once nobody expects it any more.
        self._over = threading.Event()

    def releasing(self) -> None:
        """Told before regions are released."""
        self._most_in_use = max(self._most_in_use, int(self._arena.space[_layout.IN_USE]))

    def released(self) -> None:
        """Told after it: gives memory back, if there is too much."""
        self._rests = 0
        unused = self._most_in_use - int(self._arena.space[_layout.IN_USE])
        if unused * 8 * self._arena.cells.shape[1] >= self.most_bytes:
            self.give_all_back()

    def expect(self, bins: int) -> None:
        """Told that so many bins are about to come, taken to be as large as those here.

        Finds memory for them, beyond what was kept, in a further thread, so that this one goes on.
        """
        space, row = self._arena.space, 8 * self._arena.cells.shape[1]
        self._rests = 0
        in_use = int(space[_layout.IN_USE])
        here = max(1, int(np.count_nonzero(self._arena.regions != _layout.NO_REGION)))
        coming = min(bins * in_use // here * row, self.most_bytes)
        start = max(int(space[_layout.TOP]), int(space[_layout.HIGH_WATER])) * row
        start -= start % mmap.PAGESIZE
        end = start + coming - max(self._most_in_use - in_use, 0) * row
        known = self._found
        first = known.stop if start in known else start
        if end - first < _FOUND_BYTES_LEAST or end > len(self._memory):
            return
        self._found = range(start, max(end, known.stop))
        work = threading.Thread(
            target=_find,
            args=(self._arena, first, end, self._over),
            name="finds-memory",
            daemon=True,
        )
        work.start()

    def rest(self) -> None:
        """Told once a second or so: what nobody has needed for ten of them is given back.

        Cost: some ms when memory is given back, else nothing.
        """
        self._rests += 1
        if self._rests == _RESTS:
            self.give_all_back()
            self._give_found_back()

    def give_all_back(self) -> None:
        """Keep nothing of what was released so far."""
        self._most_in_use = int(self._arena.space[_layout.IN_USE])
        if self._arena.space[_layout.RELEASED]:
            give_back(self._arena, self._memory)

    def _give_found_back(self) -> None:
        """Let the system have what was found and not used; nothing more is found."""
        self._over.set()
        self._over = threading.Event()
        unused, self._found = self._found, range(0)
        row = 8 * self._arena.cells.shape[1]
        start = max(unused.start, int(self._arena.space[_layout.HIGH_WATER]) * row)
        start += -start % mmap.PAGESIZE
        if start < unused.stop:
            with suppress(OSError):  # memory that is locked stays
                self._memory.madvise(mmap.MADV_DONTNEED, start, unused.stop - start)


def _find(arena: Arena, start: int, end: int, over: threading.Event) -> None:
    """Let the system find memory for these bytes of the cells until it is `over`; all of a thread.

    Cost: 0.14 to 0.4 ms a MiB, 3.6 where the machine below a virtual one has yet to find it; the
    interpreter is free meanwhile. Kernels before 5.14 refuse, and memory is found as it is needed.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICER)
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    first = arena.cells.ctypes.data
    for at in range(start, end, _FOUND_BYTES):
        refused = madvise(first + at, min(_FOUND_BYTES, end - at), _MADV_POPULATE_WRITE)
        if refused or over.is_set():
            return


def _reserve(nbytes: int) -> mmap.mmap:
    """Address space without memory behind it, all zero; less of it where the system limits it."""
    collected = False
    while True:
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            buffer = mmap.mmap(-1, nbytes, flags=flags)
        except OSError as error:
            if not collected:
                # A store that was let go keeps its space until it is collected, as its parts refer
                # to one another; some 500 of them take all there is.
                gc.collect()
                collected = True
                continue
            if nbytes <= _RESERVED_BYTES_LEAST:
                raise StateError(
                    f"no {nbytes} bytes of address space for a state table: {error}; "
                    "lift the process's address space limit (ulimit -v)"
                ) from error
            nbytes //= 2
        else:
            # Advice only: a kernel built without large pages refuses, and nothing depends on them.
            with suppress(OSError, ValueError):
                buffer.madvise(mmap.MADV_HUGEPAGE, _SMALL_PAGES_BYTES)
            return buffer
