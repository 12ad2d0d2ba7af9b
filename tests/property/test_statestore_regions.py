"""The buddy allocator against a model that only knows which slots are in use.

Catches overlapping or lost regions under random orders of taking and giving back. Cannot catch what
kernels write into regions; the table's property does.
"""

from __future__ import annotations

import mmap

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.statestore import _layout, _regions

CAPACITY = 1 << 10
#: Slots have two cells; a page of four slots shows what happens at its edges.
PAGE = 64
FIRST = 1 << _layout.SMALLEST


def new_arena():
    empty = np.empty(0, dtype=np.int64)
    return _layout.Arena(
        cells=np.frombuffer(mmap.mmap(-1, CAPACITY * 16), dtype=np.int64).reshape(CAPACITY, 2),
        markers=np.zeros(CAPACITY >> _layout.SMALLEST, dtype=np.int8),
        space=_regions.new_space(CAPACITY),
        regions=empty,
        rows=empty,
        loads=empty,
        initial=empty,
    )


def free_regions(arena):
    """(start, order) of every region in a free list, following the links both ways."""
    found = []
    for order in range(_layout.ORDERS):
        before, start = _layout.NOTHING, int(arena.space[_layout.HEADS + order])
        while start != _layout.NOTHING:
            assert arena.cells[start, 1] == before
            assert arena.markers[start >> _layout.SMALLEST] == order + 1
            found.append((start, order))
            before, start = start, int(arena.cells[start, 0])
    return found


def check(arena, taken):
    free = free_regions(arena)
    top = int(arena.space[_layout.TOP])
    covered = np.zeros(CAPACITY, dtype=int)
    covered[:FIRST] += 1
    covered[top:] += 1
    for start, order in [*free, *taken]:
        assert start % (1 << order) == 0
        covered[start : start + (1 << order)] += 1
    assert (covered == 1).all(), "R1"
    assert arena.space[_layout.IN_USE] == sum(1 << order for _, order in taken)
    assert np.count_nonzero(arena.markers) == len(free), "R4"
    assert not any((start ^ (1 << order), order) in free for start, order in free), "R2"
    assert not any(start + (1 << order) == top for start, order in free), "R2"
    assert (arena.cells[arena.space[_layout.HIGH_WATER] :] == 0).all(), "R3"


def give_back(arena):
    """Do to the memory what the system does: it reads zero. Whether there was room for all."""
    ranges = np.empty((20, 2), dtype=np.int64)
    count = _regions.returnable(arena, PAGE, ranges)
    assert (ranges[:count] % PAGE == 0).all()
    content = arena.cells.reshape(-1)
    for start, nbytes in ranges[:count].tolist():
        content[start // 8 : (start + nbytes) // 8] = 0
    if ranges[0, 1]:
        arena.space[_layout.HIGH_WATER] = ranges[0, 0] // 16
    assert arena.space[_layout.RELEASED] == 0
    return count < len(ranges)


@given(
    st.lists(st.tuples(st.integers(3, 9), st.integers(0, 9)), max_size=80),
    st.booleans(),
)
def test_regions_never_overlap_and_none_is_lost(steps, overflows):
    arena, taken = new_arena(), []
    for order, choice in steps:
        if choice > 7:
            # As if so many had been released before: above RELEASED_MAX all free regions are seen.
            released = int(arena.space[_layout.RELEASED])
            if released and overflows:
                arena.space[_layout.RELEASED] = _layout.RELEASED_MAX + released
            complete = give_back(arena)
            held = [arena.cells[start : start + (1 << order)] for start, order in taken]
            assert all((cells == 77).all() for cells in held), "R5"
            if complete and released and overflows:
                for start, free_order in free_regions(arena):
                    inner = arena.cells[start + 4 : start + (1 << free_order)]
                    assert not inner.any(), "all but the first page of what is free was given back"
        elif choice < 4 or not taken:
            start = _regions.allocate(arena, order)
            if start == _layout.NOTHING:
                free = free_regions(arena)
                assert all(free_order < order for _, free_order in free)
                aligned = -(-int(arena.space[_layout.TOP]) >> order) << order
                assert aligned + (1 << order) > CAPACITY
                continue
            cells = arena.cells[start : start + (1 << order)]
            assert not cells[:, _layout.STAMP].any(), "R3"
            cells[:] = 77
            taken.append((start, order))
        else:
            start, released = taken.pop(choice % len(taken))
            _regions.release(arena, start << _layout.ORDER_BITS | released)
        check(arena, taken)
    for start, order in taken:
        _regions.release(arena, start << _layout.ORDER_BITS | order)
    check(arena, [])
    assert arena.space[_layout.TOP] == FIRST
