"""What lowering needs of a keyed vertex, whatever its kind.

Flow: stateful | timed_parts -> [KeyedParts] -> lowering, which places F and S.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from service.dataflow.row_vertices import BatchFunction
from service.dataflow.sides import Tagged
from service.statestore.hosted import HostedStore


@dataclass(frozen=True, slots=True)
class KeyedParts:
    """The parts of one keyed vertex."""

    #: Columns that F sends (SF1 of `stateful`).
    columns: list[str]
    #: Those of them that may hold no null (SF2 of `stateful`).
    required: list[str]
    #: Of a vertex with event time a `TimedStore`.
    store: HostedStore
    #: Columns of the output.
    schema: pa.Schema
    #: The column of integers that says a row's bin: the key, or the hashes of keys that are text.
    key: str
    #: What makes one stream of two; only of a join.
    sides: Tagged | None = None
    #: The key, where it is text.
    text_key: str | None = None
    #: Columns of its late rows; None: they are as they were given, with all their columns.
    late: pa.Schema | None = None
    #: Whether the rows of one time must come in the order of their columns; a store to which their
    #: order says nothing is spared the sorting.
    sorted: bool = True
    #: Leaves out of a batch what S makes nothing of, where nobody asks for late rows (F5).
    combine: BatchFunction | None = None
    #: A column that the flow has added, of which nobody is told: the one key of all rows together.
    hidden: str | None = None

    def late_columns(self, given: pa.Schema) -> pa.Schema:
        """Columns of late rows, of a stream with the columns `given`."""
        if self.late is not None:
            return self.late
        return pa.schema([field for field in given if field.name != self.hidden])
