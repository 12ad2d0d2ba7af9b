"""Files as sources: every row once and in order, and a bad one by file and line."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DataError, GraphError, UsageError
from service.ingest import files
from service.ingest.files import FileSource

ROWS = [{"a": 1, "b": "x, y"}, {"a": -(1 << 63), "b": 'say "é"'}, {"a": 7, "b": ""}]
SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])


def write(path, rows):
    """A file of these rows in the format of its ending."""
    if path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    else:
        pyarrow.feather.write_feather(
            pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="uncompressed"
        )


def read(source):
    """All rows of a source."""
    return [row for batch in source.batches() for row in batch.to_pylist()]


def schema_and_rows(source):
    """What a run asks of a source."""
    return source.schema(), read(source)


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "csv", "parquet", "arrow", "feather"])
@pytest.mark.parametrize("schema", [None, SCHEMA, {"b": "string"}], ids=["found", "all", "some"])
def test_every_format_gives_its_rows_in_order_each_time(tmp_path, ending, schema) -> None:
    path = tmp_path / f"rows.{ending}"
    write(path, ROWS)
    source = FileSource(path, schema)
    expected = [{"b": row["b"]} for row in ROWS] if isinstance(schema, dict) else ROWS
    assert source.schema().names == list(expected[0])
    assert source.fields == (None if schema is None else tuple(expected[0]))
    assert read(source) == read(source) == expected
    assert all(batch.schema == source.schema() for batch in source.batches())


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_text_file_is_read_in_blocks_without_losing_a_row_at_their_borders(
    tmp_path, ending, monkeypatch
) -> None:
    monkeypatch.setattr(files, "_BLOCK_BYTES", 100)
    path = tmp_path / f"rows.{ending}"
    rows = [{"a": number, "b": "x" * (number % 40)} for number in range(200)]
    write(path, rows)
    source = FileSource(path)
    assert read(source) == rows
    assert len(list(source.batches())) > 20


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60),
    st.integers(1, 200),
    st.data(),
)
def test_the_bad_line_is_found_wherever_it_lies(
    tmp_path_factory, numbers, block_bytes, data
) -> None:
    lines = [json.dumps({"a": number}) for number in numbers]
    bad = data.draw(st.integers(0, len(lines)))
    lines.insert(bad, data.draw(st.sampled_from(['{"a": "x"}', '{"a": 1.5}', "{", "[1]", "7"])))
    for blank in sorted(data.draw(st.sets(st.integers(0, bad), max_size=3)), reverse=True):
        lines.insert(blank, "")
        bad += 1
    path = tmp_path_factory.mktemp("bad") / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK_BYTES", block_bytes)
        with pytest.raises(DataError, match=f"rows.jsonl:{bad + 1}: "):
            read(FileSource(path, {"a": "int64"}))


@pytest.mark.parametrize(
    ("name", "text", "schema", "told"),
    [
        ("r.jsonl", '{"a":1}\n{"a":"x"}\n', None, r"r.jsonl:2: .*the line is '{\"a\":\"x\"}'"),
        ("r.jsonl", '{"a":1}\n{"a":2,"b":3}\n{"a":"x"}\n', None, "r.jsonl:3: "),
        ("r.jsonl", '{"a":1}\n{"a":\n', {"a": "int64"}, "r.jsonl:2: "),
        ("r.jsonl", '\n\n{"a":99999999999999999999}\n', {"a": "int64"}, "r.jsonl:3: "),
        ("r.jsonl", "nonsense\n", None, "r.jsonl:1: "),
        ("r.jsonl", "", None, "has no rows, so its columns are unknown"),
        ("r.csv", "a,b\n1,x\nq,y\n", {"a": "int64", "b": "string"}, "r.csv:3: .*'q'"),
        ("r.csv", "a,b\n1,x\n1,2,3\n", None, "r.csv:3: .*[Ee]xpected 2 columns, got 3"),
        ("r.csv", "a,a\n1,x\n", None, "r.csv:1: a CSV file begins with"),
        ("r.csv", "", None, "r.csv:1: a CSV file begins with"),
        ("r.csv", "a,b\n1,x\n", {"c": "int64"}, r"r.csv:1: the header lacks \['c'\]"),
        ("r.csv", "a,b\n", None, "has no rows"),
        ("r.parquet", "nonsense", None, "no Parquet file"),
        ("r.arrow", "nonsense", None, "no Arrow IPC file"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_and_line(tmp_path, name, text, schema, told) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        schema_and_rows(FileSource(path, schema))


def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"a":"x"}\n{"a":"\xff"}\n')
    with pytest.raises(DataError, match="r.jsonl:2: "):
        read(FileSource(path))


def test_a_field_that_the_first_block_did_not_have_is_an_error_and_no_loss(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(files, "_BLOCK_BYTES", 4)
    path = tmp_path / "r.jsonl"
    path.write_text('{"a":1}\n{"a":2,"b":3}\n')
    with pytest.raises(DataError, match="r.jsonl:2: .*unexpected field"):
        read(FileSource(path))
    assert read(FileSource(path, {"a": "int64"})) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_binary_file_that_lacks_a_column_or_has_another_type_is_refused(tmp_path, ending) -> None:
    path = tmp_path / f"rows.{ending}"
    write(path, ROWS)
    with pytest.raises(DataError, match=r"lacks the columns \['c'\]; it has \['a', 'b'\]"):
        read(FileSource(path, {"c": "int64"}))
    with pytest.raises(DataError, match="does not fit its declared columns"):
        read(FileSource(path, {"b": "int64"}))


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_binary_file_without_rows_still_tells_its_columns(tmp_path, ending) -> None:
    path = tmp_path / f"rows.{ending}"
    write(path, [])
    assert FileSource(path).schema() == SCHEMA
    assert read(FileSource(path)) == []


def test_a_file_that_is_not_there_is_said_before_anything_runs(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"missing.jsonl cannot be opened: No such file"):
        FileSource(tmp_path / "missing.jsonl", {"a": "int64"}).schema()


def test_an_ending_that_says_nothing_is_refused_when_the_flow_is_written() -> None:
    with pytest.raises(GraphError, match="cannot tell what 'rows.txt' is; files end in .jsonl"):
        FileSource("rows.txt")
