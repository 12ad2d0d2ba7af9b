"""The arrays of an arena table and where things stand in them.

Flow: KeyedTable makes an [Arena] -> kernels of _regions and _kernels take it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Order of the smallest region: 8 slots.
SMALLEST = 3
#: Orders below this one have a free list; 2**40 slots are beyond any machine.
ORDERS = 40
NOTHING = -1

#: Cells of every slot; the state columns follow.
STAMP = 0
KEY = 1
FIRST_COLUMN = 2

#: The low bits of a row's stamp; version + 1 stands above them.
MARK_BITS = 2
#: Touched since the clock hand last came by.
REFERENCED = 1
#: Changed since the row was last written to, or read from, the database behind the table.
DIRTY = 2
MARKS = REFERENCED | DIRTY
#: Stamp of a row that a batch has just made: version 0.
NEW_ROW = 1 << MARK_BITS | MARKS

#: Registers of an allocator; the heads of the free lists follow.
TOP = 0
HIGH_WATER = 1
CAPACITY = 2
IN_USE = 3
HEADS = 4
#: How many regions were released since their memory was last given back, and which ones; more than
#: RELEASED_MAX are counted but not listed.
RELEASED = HEADS + ORDERS
RELEASED_MAX = 256

#: A bin's region packed into one number: start << ORDER_BITS | order.
ORDER_BITS = 6
ORDER_MASK = (1 << ORDER_BITS) - 1
#: What a bin without rows has: slot 0 alone, which is always empty, so that looking for a key needs
#: no special case. The allocator never hands out the first 2**SMALLEST slots.
NO_REGION = 0

Int64s = NDArray[np.int64]


class Arena(NamedTuple):
    """The arrays of a table, as the kernels take them."""

    #: Slots x (stamp, key, state columns); their meaning is in _kernels.
    cells: Int64s
    #: R4.
    markers: NDArray[np.int8]
    #: Registers of the allocator.
    space: Int64s
    #: Packed region of each bin.
    regions: Int64s
    #: Number of rows of each bin.
    rows: Int64s
    #: Load at which each bin doubles, in 1/1024.
    loads: Int64s
    #: Bits of each state column of a new row.
    initial: Int64s
