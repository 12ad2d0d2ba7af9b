"""The join of rows whose columns typed rows do not take: lists, structs, maps, dictionaries.

Flow: S -> ObjectStore -> [ObjectJoin] -> pairs; the tagged rows and the promises, JO1 and JO2, are
those of `join`.

A key's state is two lists of rows, one a side.
Cost: about 2 us of Python a row and 0.2 us a pair, half of it for the garbage collector; every row
of both sides is kept, for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter

import numpy as np
import pyarrow as pa

from service.statestore.columns import numbers_of
from service.statestore.join import LEFT, SIDE
from service.statestore.object_rows import Objects
from service.statestore.stateful_map import listed

#: Rows of one side, each the tuple of its columns.
Side = list[tuple[object, ...]]


class ObjectJoin:
    """The join of tagged rows of any types."""

    def __init__(self, key: str, left: Sequence[str], right: Sequence[str], out: pa.Schema) -> None:
        """Name the tagged columns of each side; `out` is key, left's columns, right's columns."""
        self.key = key
        self._columns = (list(left), list(right))
        self._out = out

    def apply(
        self, objects: Objects, keys: list[int], rows: pa.RecordBatch, time: tuple[int, ...]
    ) -> pa.RecordBatch:
        """Keep the rows, and return the pairs that they complete (JO1, JO2)."""
        out_keys: list[int] = []
        pairs: tuple[Side, Side] = ([], [])
        sides = numbers_of(rows, SIDE)
        edges = (np.flatnonzero(np.diff(sides)) + 1).tolist()
        for start, end in pairwise([0, *edges, len(keys)]):
            side = int(sides[start]) if end > start else LEFT
            given = self._rows(rows.slice(start, end - start), side)
            _meet(objects, keys[start:end], given, side, out_keys, pairs)
        columns = [
            pa.array(column, field.type)
            for column, field in zip(self._columns_of(out_keys, *pairs), self._out, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._out)

    def _rows(self, rows: pa.RecordBatch, side: int) -> Side:
        columns = self._columns[side]
        if not columns:
            return [()] * rows.num_rows
        return list(zip(*(listed(rows.column(name)) for name in columns), strict=True))

    def _columns_of(self, keys: list[int], left: Side, right: Side) -> list[Sequence[object]]:
        """Pairs by column."""
        columns: list[Sequence[object]] = [keys]
        for names, rows in zip(self._columns, (left, right), strict=True):
            # Not `zip(*rows)`: it makes an iterator a row, and the garbage collector follows each.
            columns += (list(map(itemgetter(place), rows)) for place in range(len(names)))
        return columns


def _meet(
    objects: Objects,
    keys: list[int],
    rows: Side,
    side: int,
    out_keys: list[int],
    pairs: tuple[Side, Side],
) -> None:
    """Add rows of one side, and their pairs to `out_keys` and `pairs`."""
    states, came = objects.states, objects.came
    own_out, others_out = pairs[side], pairs[1 - side]
    other = 1 - side
    for key, row in zip(keys, rows, strict=True):
        kept = states.get(key)
        if kept is None:
            came.append(key)
            kept = states[key] = ([], [])
        assert isinstance(kept, tuple), "a key's state is a pair of lists"
        kept[side].append(row)
        matches = kept[other]
        if matches:
            count = len(matches)
            out_keys += [key] * count
            own_out += [row] * count
            others_out += matches
