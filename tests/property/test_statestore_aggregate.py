"""Aggregates against plain Python, and against themselves with batches cut elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StateError
from service.statestore.aggregate import AggregateProgram, Count, Max, Min, Oldest, Sum
from service.statestore.arena import KeyedTable

LEAST, GREATEST = -(2**63), 2**63 - 1
INTEGERS = st.one_of(
    st.integers(-1000, 1000),
    st.integers(LEAST, GREATEST),
    st.sampled_from([LEAST, GREATEST, LEAST // 2, GREATEST // 2 + 1]),
)
FLOATS = st.floats(allow_nan=False, width=64)
ROWS = st.lists(st.tuples(st.integers(0, 12), INTEGERS, FLOATS), max_size=80)
OUTPUTS = {
    "n": Count(),
    "total": Sum("i"),
    "hi": Max("i"),
    "lo": Min("i"),
    "old": Oldest("i"),
    "ftotal": Sum("f"),
    "fhi": Max("f"),
    "flo": Min("f"),
}


def program(**outputs):
    return AggregateProgram("k", outputs or OUTPUTS, {"i": "int64", "f": "float64"})


def apply(made, table, rows, version):
    keys = np.array([row[0] for row in rows], dtype=np.int64)
    values = {
        "i": np.array([row[1] for row in rows], dtype=np.int64),
        "f": np.array([row[2] for row in rows], dtype=np.float64),
    }
    with np.errstate(all="ignore"):
        keys, outputs = made.apply(table, keys, values, version)
    columns = [column.tolist() for column in outputs.values()]
    return {key: dict(zip(outputs, row)) for key, *row in zip(keys.tolist(), *columns)}


class Oracle:
    def __init__(self):
        self.kept = {}

    def apply(self, batch):
        oldest, changed = {}, {}
        for key, i, f in batch:
            n, total, hi, lo, ftotal, fhi, flo = self.kept.get(
                key, (0, 0, LEAST, GREATEST, 0.0, -math.inf, math.inf)
            )
            self.kept[key] = (
                n + 1,
                total + i,
                max(hi, i),
                min(lo, i),
                ftotal + f,
                max(fhi, f),
                min(flo, f),
            )
            oldest[key] = min(oldest.get(key, GREATEST), i)
            changed[key] = None
        found = {}
        for key in changed:
            n, total, hi, lo, ftotal, fhi, flo = self.kept[key]
            found[key] = {
                "n": n,
                "total": total,
                "hi": hi,
                "lo": lo,
                "old": oldest[key],
                "ftotal": ftotal,
                "fhi": fhi,
                "flo": flo,
            }
        return found


def same(found, expected):
    """Equal in order and value, a NaN being equal to a NaN."""
    return repr(found) == repr(expected)


@given(st.lists(ROWS, max_size=6), st.integers(0, 4))
def test_every_batch_gives_what_python_computes_or_names_the_sum_that_does_not_fit(batches, bits):
    made, oracle = program(), Oracle()
    table = KeyedTable(bits, made.state_columns)
    for version, batch in enumerate(batches):
        expected = oracle.apply(batch)
        misfits = [k for k, row in expected.items() if not LEAST <= row["total"] <= GREATEST]
        if misfits:
            with pytest.raises(StateError, match=f"'total' of column 'i' for key {misfits[0]} "):
                apply(made, table, batch, version)
            return
        found = apply(made, table, batch, version)
        assert list(found) == list(expected), "G1"
        assert same(found, expected)


@given(ROWS, st.data())
def test_state_does_not_depend_on_where_batches_are_cut(rows, data):
    outputs = {name: spec for name, spec in OUTPUTS.items() if name not in ("total", "old")}
    made = program(**outputs)
    whole, pieces = (KeyedTable(1, made.state_columns) for _ in range(2))
    expected, found = apply(made, whole, rows, 1), {}
    start = 0
    while start < len(rows):
        end = data.draw(st.integers(start + 1, len(rows)))
        found |= apply(made, pieces, rows[start:end], 1)
        start = end
    assert same(found, {key: expected[key] for key in found})
    assert found.keys() == expected.keys()
