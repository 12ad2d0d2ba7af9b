"""A source that is a file: JSON lines, CSV, Parquet or Arrow.

Flow: file -> [FileSource] -> blocks of whole lines, or batches -> Arrow -> SourceOperator.

Invariants
  FS1  A line that cannot be used ends the run with an error that names file and line; no line is
       skipped but an empty one.
  FS2  The file is read in blocks: memory does not grow with it.
  FS3  Without a declared schema, that of the first block holds for the whole file.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.ipc as pa_ipc
import pyarrow.json as pa_json
import pyarrow.parquet as pa_parquet

from service.errors import DataError, GraphError, UsageError
from service.ingest.shape import Columns, schema_of

_BLOCK_BYTES = 1 << 20
_ROWS_MAX = 16_384
_SHOWN_CHARS = 80
_BAD_TEXT = (pa.ArrowException, UnicodeError, ValueError)

#: A block of whole lines, a schema or None -> rows.
_Parse = Callable[[bytes, pa.Schema | None], pa.Table]


class FileSource:
    """The rows of one file, from its first to its last.

    The ending says what it is: `.jsonl` or `.ndjson` (an object a line), `.csv` (with a header),
    `.parquet`, `.arrow` or `.feather` (Arrow IPC files). Relative paths are those of the folder
    where the command runs.

    Args:
        path: the file.
        schema: columns to take and their types, `{"auction": "int64"}` or a `pyarrow.Schema`; what
            else a file has is left out. Without it, all columns, with types found in the first MiB
            of a text file.

    Raises:
        GraphError: another ending, or a type that there is not.

    Cost: about 1 s per GB of JSON lines and core.

    Example:
        >>> from service.ingest.files import FileSource
        >>> FileSource("bids.jsonl", schema={"auction": "int64", "price": "int64"}).fields
        ('auction', 'price')
    """

    def __init__(self, path: str | Path, schema: Columns | None = None) -> None:
        """Name the file; it is opened when the flow runs."""
        self.path = Path(path)
        self._declared = None if schema is None else schema_of(schema)
        if self.path.suffix not in _READERS:
            raise GraphError(
                f"FileSource cannot tell what {self.path.name!r} is; "
                f"files end in {', '.join(_READERS)}"
            )

    @property
    def fields(self) -> tuple[str, ...] | None:
        """Columns declared; None: only the file tells."""
        return None if self._declared is None else tuple(self._declared.names)

    @property
    def label(self) -> str:
        """The file."""
        return f"file {self.path}"

    def schema(self) -> pa.Schema:
        """Columns and types: those declared, else those found.

        Raises:
            UsageError: the file cannot be opened.
            DataError: it has no row that would tell its columns, lacks a declared one, or its
                beginning cannot be read.
        """
        with self._open() as file:
            if self._declared is not None and self.path.suffix in _TEXTS:
                return self._declared
            first = next(_READERS[self.path.suffix](self.path, file, self._declared), None)
        if first is None:
            raise DataError(
                f"{self.path} has no rows, so its columns are unknown; declare them with schema="
            )
        return first.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows (FS1, FS2).

        Raises:
            UsageError: the file cannot be read.
            DataError: a row does not fit; the text names the line, or the column of a binary file.
        """
        with self._open() as file:
            try:
                yield from _READERS[self.path.suffix](self.path, file, self._declared)
            except OSError as error:
                raise UsageError(f"{self.path} cannot be read: {error}") from error

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be opened: {error.strerror}; relative paths begin at "
                f"{Path.cwd()}"
            ) from error


def _json_lines(path: Path, file: BinaryIO, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    # Fields beside the declared ones are left out; beside those found in the first block they are
    # an error, or half the rows would lack what the others have.
    beside = "error" if schema is None else "ignore"

    def parse(block: bytes, known: pa.Schema | None) -> pa.Table:
        options = pa_json.ParseOptions(
            explicit_schema=known,
            unexpected_field_behavior="infer" if known is None else beside,
            newlines_in_values=False,
        )
        reading = pa_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
        return pa_json.read_json(
            pa.BufferReader(block), read_options=reading, parse_options=options
        )

    return _lines(path, file, 1, schema, parse)


def _csv(path: Path, file: BinaryIO, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    try:
        names = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
    except UnicodeError as error:
        raise DataError(f"{path}:1: the header is not UTF-8: {error}") from error
    if not names or len(set(names)) != len(names):
        raise DataError(f"{path}:1: a CSV file begins with the names of its columns, each once")
    missing = [] if schema is None else [name for name in schema.names if name not in names]
    if missing:
        raise DataError(f"{path}:1: the header lacks {missing}; it has {names}")

    def parse(block: bytes, known: pa.Schema | None) -> pa.Table:
        return pa_csv.read_csv(
            pa.BufferReader(block),
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=len(block) + 1, column_names=names
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=known, include_columns=None if known is None else known.names
            ),
        )

    return _lines(path, file, 2, schema, parse)


def _lines(
    path: Path, file: BinaryIO, number: int, schema: pa.Schema | None, parse: _Parse
) -> Iterator[pa.RecordBatch]:
    """Blocks of whole lines, the first of which has this number in the file."""
    while lines := file.readlines(_BLOCK_BYTES):
        if any(line.strip() for line in lines):
            try:
                table = _parsed(b"".join(lines), schema, parse)
            except _BAD_TEXT as error:
                raise _bad_line(path, number, lines, schema, parse, error) from error
            schema = table.schema
            yield from table.to_batches(max_chunksize=_ROWS_MAX)
        number += len(lines)


def _parsed(block: bytes, schema: pa.Schema | None, parse: _Parse) -> pa.Table:
    table = parse(block, schema)
    table.validate(full=True)
    return table if schema is None else table.select(schema.names)


def _bad_line(
    path: Path,
    number: int,
    lines: list[bytes],
    schema: pa.Schema | None,
    parse: _Parse,
    error: Exception,
) -> DataError:
    """Which line of a block it was (FS1): the last of the shortest beginning that is refused."""
    good, bad, found = 0, len(lines), schema
    while bad - good > 1:
        middle = (good + bad) // 2
        if not any(line.strip() for line in lines[:middle]):
            good = middle
            continue
        try:
            table = _parsed(b"".join(lines[:middle]), schema, parse)
        except _BAD_TEXT as reason:
            bad, error = middle, reason
        else:
            good, found = middle, table.schema
    line = lines[bad - 1]
    try:
        _parsed(line, found, parse)
    except _BAD_TEXT as reason:
        # Alone it is called row 0 or 1 by the parser, which says nothing; its place is told here.
        error = reason
    return _of_line(path, number + bad - 1, line, error)


def _of_line(path: Path, number: int, line: bytes, reason: Exception) -> DataError:
    text = line.decode(errors="replace").strip()
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    return DataError(
        f"{path}:{number}: {reason}; the line is {shown!r}. Correct it, or declare other columns "
        "with schema="
    )


def _parquet(path: Path, file: BinaryIO, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    try:
        opened = pa_parquet.ParquetFile(file)
        rows = _empty(opened.schema_arrow)
        yield _taken(path, rows, schema)
        for batch in opened.iter_batches(batch_size=_ROWS_MAX):
            yield _taken(path, batch, schema)
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Parquet file that can be read: {error}") from error


def _arrow(path: Path, file: BinaryIO, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    try:
        opened = pa_ipc.open_file(file)
        yield _taken(path, _empty(opened.schema), schema)
        for number in range(opened.num_record_batches):
            batch = _taken(path, opened.get_batch(number), schema)
            for start in range(0, batch.num_rows, _ROWS_MAX):
                yield batch.slice(start, _ROWS_MAX)
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Arrow IPC file that can be read: {error}") from error


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    """So that a file without rows tells its columns, too."""
    return pa.RecordBatch.from_pylist([], schema=schema)


def _taken(path: Path, batch: pa.RecordBatch, schema: pa.Schema | None) -> pa.RecordBatch:
    if schema is None:
        return batch
    missing = [name for name in schema.names if name not in batch.schema.names]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}; it has {batch.schema.names}")
    try:
        return batch.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} does not fit its declared columns: {error}") from error


_TEXTS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv}
_READERS: dict[str, Callable[[Path, BinaryIO, pa.Schema | None], Iterator[pa.RecordBatch]]] = {
    **_TEXTS,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
