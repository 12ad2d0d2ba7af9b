"""Sinks that are no Kafka: a list, the terminal, a file.

Flow: SinkOperator -> outbox -> [writers] -> list, stdout, file.

Invariants
  LS1  A file gets its name only when the run has ended as asked: until then rows lie beside it, and
       after an error an older file of that name is as it was.
  LS2  What a sink cannot take is refused when it is opened, before a row is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.ipc as pa_ipc
import pyarrow.parquet as pa_parquet

from service.dataflow.connectors import LocalWriter
from service.errors import GraphError, UsageError


class ListSink:
    """Results in memory, of the newest run.

    Attributes:
        rows: one dictionary per row, in the order stored.
    """

    label = "list"

    def __init__(self) -> None:
        """Begin without rows."""
        self.rows: list[dict[str, object]] = []

    def open(self, columns: pa.Schema) -> LocalWriter:
        """Forget the rows of an earlier run."""
        self.rows = []
        return _ListWriter(self.rows)


class _ListWriter:
    def __init__(self, rows: list[dict[str, object]]) -> None:
        self._rows = rows

    def write(self, rows: pa.RecordBatch) -> None:
        self._rows.extend(rows.to_pylist())

    def close(self, *, complete: bool) -> None:
        """Nothing to let go of."""


class PrintSink:
    """Results on standard output, a JSON object a line.

    Args:
        prefix: what each line begins with, to tell sinks apart.
    """

    label = "standard output"

    def __init__(self, prefix: str = "") -> None:
        """Print to what is standard output when the run begins."""
        self._prefix = prefix

    def open(self, columns: pa.Schema) -> LocalWriter:
        """Begin to print."""
        return _PrintWriter(sys.stdout, self._prefix)


class _PrintWriter:
    def __init__(self, out: TextIO, prefix: str) -> None:
        self._out = out
        self._prefix = prefix

    def write(self, rows: pa.RecordBatch) -> None:
        try:
            for line in _json_lines(rows).decode().splitlines(keepends=True):
                self._out.write(self._prefix + line)
            self._out.flush()
        except OSError as error:
            raise UsageError(f"standard output takes no more: {error.strerror}") from error

    def close(self, *, complete: bool) -> None:
        """Standard output stays open."""


class FileSink:
    """Results in a file, which appears when the run has ended as asked (LS1).

    The ending says what it is: `.jsonl` or `.ndjson` (an object a line), `.csv` (with a header),
    `.parquet`, `.arrow` or `.feather` (Arrow IPC files). A file of that name is replaced.

    Args:
        path: the file; its folder must exist.

    Raises:
        GraphError: another ending.

    Cost: JSON lines are made of Python objects, about 1 µs a value; the others are written as whole
        columns.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the file."""
        self.path = Path(path)
        if self.path.suffix not in _FORMATS:
            raise GraphError(
                f"FileSink cannot tell what {self.path.name!r} should be; "
                f"files end in {', '.join(_FORMATS)}"
            )

    @property
    def label(self) -> str:
        """The file."""
        return f"file {self.path}"

    def open(self, columns: pa.Schema) -> LocalWriter:
        """Begin to write beside the file.

        Raises:
            UsageError: the folder is not there or may not be written.
            GraphError: the format has no such type.
        """
        return _FileWriter(self.path, columns)


class _Format(Protocol):
    """A file format at work."""

    def write_batch(self, rows: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


class _FileWriter:
    def __init__(self, path: Path, columns: pa.Schema) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._format = _FORMATS[path.suffix](self._file, columns)
        except (pa.ArrowException, GraphError) as error:
            self._file.close()
            self._partial.unlink()
            raise GraphError(f"{path} cannot hold these columns: {error}") from error

    def write(self, rows: pa.RecordBatch) -> None:
        try:
            self._format.write_batch(rows)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error}") from error

    def close(self, *, complete: bool) -> None:
        try:
            self._format.close()
            self._file.close()
            if complete:
                self._partial.replace(self._path)
            else:
                self._partial.unlink()
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error}") from error


class _JsonLinesFormat:
    def __init__(self, file: BinaryIO, columns: pa.Schema) -> None:
        self._file = file

    def write_batch(self, rows: pa.RecordBatch) -> None:
        self._file.write(_json_lines(rows))

    def close(self) -> None:
        """The file is closed by its owner."""


_JSON = msgspec.json.Encoder()


def _json_lines(rows: pa.RecordBatch) -> bytes:
    return _JSON.encode_lines(rows.to_pylist())


_FORMATS: dict[str, Callable[[BinaryIO, pa.Schema], _Format]] = {
    ".jsonl": _JsonLinesFormat,
    ".ndjson": _JsonLinesFormat,
    ".csv": pa_csv.CSVWriter,
    ".parquet": pa_parquet.ParquetWriter,
    ".arrow": pa_ipc.new_file,
    ".feather": pa_ipc.new_file,
}
