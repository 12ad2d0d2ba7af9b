"""Rows and columns as people write them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.errors import GraphError
from service.ingest.lists import ListSource
from service.ingest.shape import schema_of


def test_a_list_gives_its_rows_in_order_each_time() -> None:
    source = ListSource([{"a": 1, "b": "x"}, {"a": 2, "b": None}])
    for _ in range(2):
        rows = [row for batch in source.batches() for row in batch.to_pylist()]
        assert rows == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert source.schema() == pa.schema([("a", pa.int64()), ("b", pa.string())])
    assert source.fields == ("a", "b")
    assert source.label == "list of 2 rows"


def test_dictionaries_batches_and_tables_may_be_mixed_and_keep_their_order() -> None:
    batch = pa.RecordBatch.from_pydict({"b": [9], "a": [3]})
    table = pa.table({"a": [4, 5]})
    source = ListSource([{"a": 1}, {"a": 2, "c": 0}, batch, table, {"a": 6}], schema={"a": "int64"})
    assert [row["a"] for rows in source.batches() for row in rows.to_pylist()] == [1, 2, 3, 4, 5, 6]


def test_a_long_list_comes_in_batches_of_some_thousand() -> None:
    source = ListSource([pa.table({"a": range(10_000)})])
    sizes = [batch.num_rows for batch in source.batches()]
    assert sum(sizes) == 10_000
    assert max(sizes) <= 4_096


def test_an_empty_list_needs_a_schema() -> None:
    with pytest.raises(GraphError, match="needs a schema"):
        ListSource([])
    assert list(ListSource([], schema={"a": "int64"}).batches()) == []


@pytest.mark.parametrize(
    ("rows", "schema", "told"),
    [
        ([{"a": 1}, {"b": 1}], None, r"row 1 lacks \['a'\]"),
        ([{"a": 1}, {"a": "x"}], None, "column 'a' has values"),
        ([{"a": None}], None, "None in every row"),
        ([{"a": 1.5}], {"a": "int64"}, "1.5 is no integer"),
        ([{"a": 300}], {"a": "int8"}, "300"),
        ([7], None, "7 is no row"),
        ([pa.table({"b": [1]})], {"a": "int64"}, r"lacks \['a'\]"),
        ([pa.table({"a": ["x"]})], {"a": "int64"}, "does not fit"),
        ([pa.table({"a": [1.5]})], {"a": "int64"}, "does not fit"),
    ],
)
def test_a_row_that_does_not_fit_is_named(rows, schema, told) -> None:
    with pytest.raises(GraphError, match=told):
        ListSource(rows, schema)


def test_columns_may_be_declared_by_name_or_by_type() -> None:
    declared = schema_of({"a": "int64", "b": pa.float64(), "c": "string"})
    assert declared == pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c", pa.string())])
    assert schema_of(declared) is declared


@pytest.mark.parametrize("of", ["int46", 3, None])
def test_a_type_that_there_is_not_is_named(of) -> None:
    with pytest.raises(GraphError, match=f"column 'a': {of!r} is no type"):
        schema_of({"a": of})


def test_a_schema_without_columns_is_refused() -> None:
    with pytest.raises(GraphError, match="at least one column"):
        schema_of({})
