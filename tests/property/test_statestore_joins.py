"""Joins by typed rows give exactly what joins by objects give, with bins that move and are stored.

Both sides have columns of any typed kind; the rows, where they are cut into batches, and what
happens to the bins between two batches are drawn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.join import SIDE, JoinProgram
from service.statestore.object_join import ObjectJoin
from service.statestore.object_store import ObjectStore
from service.statestore.row_store import RowStore
from tests.fakes.typed_rows import arrays_of, schemas

BITS = 2


@st.composite
def joins(draw):
    """Columns of both sides, tagged rows of them, and where those are cut."""
    left, right = draw(schemas()), draw(schemas())
    named = [
        (f"join.{side}.{field.name}", field.type)
        for side, schema in enumerate((left, right))
        for field in schema
    ]
    rows = draw(st.integers(0, 25))
    keys = draw(st.lists(st.integers(-3, 3), min_size=rows, max_size=rows))
    sides = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    arrays = draw(arrays_of(pa.schema(named), rows))
    batch = pa.RecordBatch.from_arrays(
        [pa.array(keys, pa.int64()), pa.array(sides, pa.int64()), *arrays],
        names=["k", SIDE, *(name for name, _ in named)],
    )
    cuts = draw(st.lists(st.integers(0, rows), max_size=4))
    names = [name for name, _ in named]
    return names[: len(left)], names[len(left) :], batch, sorted({0, rows, *cuts})


def move_all(source, target):
    for bin_id in range(1 << BITS):
        assembler = target.assembler(bin_id)
        for chunk in list(source.extract(bin_id, cut=7)):
            assembler.feed(chunk)
        source.delete(bin_id)
        target.install(bin_id, assembler)
    assert source.row_count == 0
    assert source.total_nbytes == 0
    return target


def store_all(source, target):
    with tempfile.TemporaryDirectory() as folder:
        files = write_checkpoint(Path(folder), 9, {"j": source}, range(1 << BITS))
        read_checkpoint(Path(folder), files, {"j": target})
    return target


@settings(deadline=None)
@given(joins(), st.lists(st.sampled_from([move_all, store_all, None]), min_size=5, max_size=5))
def test_typed_rows_and_objects_join_alike(drawn, between):
    left, right, batch, cuts = drawn
    names = [f"c{number}" for number in range(len(left) + len(right))]
    out = pa.schema(list(zip(["k", *names], [pa.int64(), *batch.schema.types[2:]], strict=True)))
    typed = RowStore("j", JoinProgram("k", left, right, out), BITS)
    objects = ObjectStore("j", ObjectJoin("k", left, right, out), BITS)
    for start, end, step in zip(cuts, cuts[1:], between, strict=False):
        rows = batch.slice(start, end - start)
        found = typed.apply_rows(rows, (1,))
        expected = objects.apply_rows(rows, (1,))
        found.validate(full=True)
        assert found.schema == out
        assert found.to_pylist() == expected.to_pylist()
        assert typed.rows_per_bin().tolist() == objects.rows_per_bin().tolist()
        if step is not None:
            typed = step(typed, RowStore("j", JoinProgram("k", left, right, out), BITS))


def test_a_join_of_a_row_with_many_others_and_of_batches_that_grow_the_heap():
    out = pa.schema([("k", pa.int64()), ("n", pa.int64()), ("text", pa.string())])
    store = RowStore("j", JoinProgram("k", ["join.0.n"], ["join.1.text"], out), BITS)
    numbers, texts = np.arange(20_000), [str(n) * (n % 7) for n in range(20_000)]
    for start in range(0, 20_000, 5_000):
        rows = pa.table(
            {
                "k": pa.array(numbers[start : start + 5_000] % 5_000),
                SIDE: pa.array(np.ones(5_000, dtype=np.int64)),
                "join.0.n": pa.nulls(5_000, pa.int64()),
                "join.1.text": texts[start : start + 5_000],
            }
        ).to_batches()[0]
        assert store.apply_rows(rows, (1,)).num_rows == 0
    rows = pa.table(
        {
            "k": pa.array(numbers[:5_000]),
            SIDE: pa.array(np.zeros(5_000, dtype=np.int64)),
            "join.0.n": pa.array(numbers[:5_000]),
            "join.1.text": pa.nulls(5_000, pa.string()),
        }
    ).to_batches()[0]
    found = store.apply_rows(rows, (2,))
    assert found["k"].to_pylist() == np.repeat(numbers[:5_000], 4).tolist()
    assert found["text"].to_pylist() == [
        texts[key + step] for key in range(5_000) for step in range(0, 20_000, 5_000)
    ]
