"""Sinks in this process: what was written is there, and a run that failed leaves no file."""

from __future__ import annotations

import datetime
import io
import json

import pyarrow as pa
import pytest

from service.egress.local_sinks import FileSink, ListSink, PrintSink
from service.errors import GraphError, UsageError
from service.ingest.files import FileSource

ROWS = pa.RecordBatch.from_pydict({"a": [1, 2], "b": ["x", None]})


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "csv", "parquet", "arrow", "feather"])
def test_what_was_written_can_be_read_again(tmp_path, ending) -> None:
    path = tmp_path / f"out.{ending}"
    writer = FileSink(path).open(ROWS.schema)
    writer.write(ROWS)
    writer.write(ROWS.slice(1))
    assert not path.exists(), "LS1"
    writer.close(complete=True)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    source = FileSource(path, {"a": "int64", "b": "string"})
    rows = [row for batch in source.batches() for row in batch.to_pylist()]
    none = "" if ending == "csv" else None
    assert rows == [{"a": 1, "b": "x"}, {"a": 2, "b": none}, {"a": 2, "b": none}]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "arrow"])
def test_after_an_error_an_older_file_is_as_it_was(tmp_path, ending) -> None:
    path = tmp_path / f"out.{ending}"
    path.write_text("older")
    writer = FileSink(path).open(ROWS.schema)
    writer.write(ROWS)
    writer.close(complete=False)
    assert path.read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_said_at_start(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"out.csv cannot be written: No such file"):
        FileSink(tmp_path / "missing" / "out.csv").open(ROWS.schema)


def test_columns_that_a_format_cannot_hold_are_refused_at_start(tmp_path) -> None:
    columns = pa.schema([("a", pa.list_(pa.int64()))])
    with pytest.raises(GraphError, match="cannot hold these columns"):
        FileSink(tmp_path / "out.csv").open(columns)
    assert list(tmp_path.iterdir()) == []


def test_an_ending_that_says_nothing_is_refused_when_the_flow_is_written() -> None:
    with pytest.raises(GraphError, match="cannot tell what 'out.txt' should be"):
        FileSink("out.txt")


def test_json_takes_times_bytes_and_nested_values(tmp_path) -> None:
    values = {
        "t": [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)],
        "raw": [b"ab"],
        "nested": [{"x": [1, 2]}],
        "nan": [float("nan")],
    }
    batch = pa.RecordBatch.from_pydict(values)
    path = tmp_path / "out.jsonl"
    writer = FileSink(path).open(batch.schema)
    writer.write(batch)
    writer.close(complete=True)
    assert json.loads(path.read_text()) == {
        "t": "2026-01-02T00:00:00Z",
        "raw": "YWI=",
        "nested": {"x": [1, 2]},
        "nan": None,
    }


def test_printed_rows_are_json_lines_behind_their_prefix(capsys) -> None:
    writer = PrintSink("out ").open(ROWS.schema)
    writer.write(ROWS)
    writer.close(complete=True)
    assert capsys.readouterr().out == 'out {"a":1,"b":"x"}\nout {"a":2,"b":null}\n'


def test_a_closed_pipe_is_an_error_with_a_name(monkeypatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Closed())
    writer = PrintSink().open(ROWS.schema)
    with pytest.raises(UsageError, match="standard output takes no more: Broken pipe"):
        writer.write(ROWS)


def test_a_list_sink_holds_the_rows_of_the_newest_run() -> None:
    sink = ListSink()
    for _ in range(2):
        writer = sink.open(ROWS.schema)
        writer.write(ROWS)
        writer.close(complete=True)
    assert sink.rows == ROWS.to_pylist()
