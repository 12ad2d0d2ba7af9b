"""Ends of a flow that are no Kafka: what a source or sink must be to stand in for a topic.

Flow: user's `ListSource`, `FileSink`, … -> vertices -> `megaphone run --local`, or the test kit,
which calls them. A user's own class will do: only its methods count.

Invariants
  CN1  A source ends, and gives the same rows in the same order each time it is opened.
  CN2  Its schema is known before its first row is read, and all its batches have it.
  CN3  A writer is opened once a run and closed once, with whether the run ended as asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa


@runtime_checkable
class LocalSource(Protocol):
    """Rows that are there already, in this process."""

    @property
    def fields(self) -> Sequence[str] | None:
        """Columns it gives; None if only opening it tells."""
        ...

    @property
    def label(self) -> str:
        """What it is, for people, in a few words."""
        ...

    def schema(self) -> pa.Schema:
        """Columns and types, before any row is asked for (CN2); may open files.

        Raises:
            MegaphoneError: there is nothing to read, or it is not what was declared.
        """
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, from the first one on, in batches of some thousand rows (CN1).

        Raises:
            MegaphoneError: while iterating: a row that cannot be used, by its place.
        """
        ...


class LocalWriter(Protocol):
    """An opened sink; one of them takes the rows of all workers."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Store rows; those of one key come in the order of their results.

        Raises:
            MegaphoneError: they cannot be stored.
        """
        ...

    def close(self, *, complete: bool) -> None:
        """Let go; `complete` is whether the run ended as asked, and not by an error (CN3)."""
        ...


@runtime_checkable
class LocalSink(Protocol):
    """Where results are put, in this process."""

    @property
    def label(self) -> str:
        """What it is, for people, in a few words."""
        ...

    def open(self, columns: pa.Schema) -> LocalWriter:
        """Begin to take rows of these columns.

        Raises:
            MegaphoneError: it cannot be written, or does not take such columns.
        """
        ...
