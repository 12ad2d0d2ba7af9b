"""Vertices without state beyond map and concat, as values.

Flow: `service.dataflow.row_operations` -> [row vertices] -> `service.dataflow.vertices`, which has
them among all others. Pure.

Invariants
  RV1  A side vertex is no operator: it names a further output of its upstream, which exists only if
       the flow asks for it (errors) or always (the other rows of a branch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

BatchFunction = Callable[[pa.RecordBatch], pa.RecordBatch]
MaskFunction = Callable[[pa.RecordBatch], pa.Array]
FlatFunction = Callable[[pa.RecordBatch], Iterable[pa.RecordBatch]]
#: Is given the epoch and the rows.
Inspection = Callable[[int, pa.RecordBatch], object]
#: The epoch to which the rows of an epoch are put off.
Postponement = Callable[[int], int]


@dataclass(frozen=True)
class FlatMapVertex:
    """A function from one batch to any number of them."""

    name: str
    function: FlatFunction
    upstream: int
    #: Columns of the results; None: those of the results for an empty batch.
    schema: pa.Schema | None = None


@dataclass(frozen=True)
class BranchVertex:
    """Rows for which a mask is true; the others leave by the side."""

    name: str
    mask: MaskFunction
    upstream: int


class Side(Enum):
    """Which further output a side vertex names."""

    OTHERS = "others"
    ERRORS = "errors"
    #: Rows that came too late for a vertex with event time, as they were given.
    LATE = "late"


@dataclass(frozen=True)
class SideVertex:
    """A further output of its upstream (RV1)."""

    name: str
    side: Side
    upstream: int


@dataclass(frozen=True)
class ExchangeVertex:
    """Rows spread over the workers by the hash of a column; all rows to all of them if it is None.

    Lowered to a sender in every process and a receiver in every process.
    """

    name: str
    by: str | None
    upstream: int


@dataclass(frozen=True)
class InspectVertex:
    """A function that sees the batches that pass."""

    name: str
    function: Inspection
    upstream: int


@dataclass(frozen=True)
class DelayVertex:
    """Rows are put off to a later time."""

    name: str
    until: Postponement
    upstream: int


@dataclass(frozen=True)
class CaptureVertex:
    """The batches that pass are written to files, with their times and what the frontier does."""

    name: str
    #: Folder of the files, one per process.
    folder: str
    upstream: int


RowVertex = (
    FlatMapVertex
    | BranchVertex
    | SideVertex
    | ExchangeVertex
    | InspectVertex
    | DelayVertex
    | CaptureVertex
)


def delays_of(vertices: Sequence[object]) -> tuple[DelayVertex, ...]:
    """The vertices that keep rows of a time for a later one, outside of all bins."""
    return tuple(vertex for vertex in vertices if isinstance(vertex, DelayVertex))
