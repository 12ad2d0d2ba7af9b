"""A source that is a capture: rows that a stream once had, once more.

Flow: files of a capture -> [CaptureSource] -> SourceOperator.

Invariants
  CS1  A file's batches come in the order written; among files the one whose next batch has the
       earliest time goes first, the runs of a job one after the other.
  CS2  The times are those of the new run: an epoch is when a gateway reads.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from service.dataflow.capturing import CapturedRows, captures, replay
from service.dataflow.progress.timestamp import Timestamp
from service.errors import UsageError


class CaptureSource:
    """What `stream.capture(name, folder)` wrote, of all processes and runs.

    Args:
        folder: that of the capture.
        name: that of the capture.

    Example:
        >>> from service.ingest.captured import CaptureSource
        >>> CaptureSource("captured", "kept").label
        "capture 'kept' in captured"
    """

    #: Only the files tell.
    fields = None

    def __init__(self, folder: str | Path, name: str) -> None:
        """Read nothing yet."""
        self._folder = folder
        self._name = name

    @property
    def label(self) -> str:
        """Its name and folder."""
        return f"capture {self._name!r} in {self._folder}"

    def schema(self) -> pa.Schema:
        """Columns of the capture.

        Raises:
            UsageError: there is no such capture, or a file of it is none or of other columns.
        """
        first, *others = captures(self._folder, self._name)
        schema = _schema_of(first)
        for other in others:
            if not _schema_of(other).equals(schema):
                raise UsageError(
                    f"{other} has other columns than {first}: the flow was changed between two "
                    "runs; keep the files of one of them"
                )
        return schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in the order of CS1.

        Raises:
            UsageError: while iterating: a file ends within a batch.
        """
        files = [_rows_of(path) for path in captures(self._folder, self._name)]
        for captured in heapq.merge(*files, key=_time_of):
            yield captured.rows


def _schema_of(path: Path) -> pa.Schema:
    try:
        with path.open("rb") as file, pa.ipc.open_stream(file) as reader:
            return reader.schema
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is no capture: {error}") from error


def _rows_of(path: Path) -> Iterator[CapturedRows]:
    return (each for each in replay(path) if isinstance(each, CapturedRows))


def _time_of(captured: CapturedRows) -> Timestamp:
    return captured.time
