"""Two streams as one of tagged rows, for a join: see `service.statestore.join`.

Flow: left, right -> [SidesOperator] -> F of the join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from service.dataflow.operator import OperatorContext
from service.errors import GraphError
from service.statestore.join import SIDE


@dataclass(frozen=True)
class Tagged:
    """Where a side's columns stand in a tagged row, and how the row's columns are called."""

    schema: pa.Schema
    #: Of each side, the names of its columns in the tagged row, the key left out.
    names: tuple[list[str], list[str]]
    #: Of each side, its own names of the same columns, and that of its key.
    own: tuple[list[str], list[str]]
    keys: tuple[str, str]
    #: Who joins, and of each side its own names of columns that may hold no null.
    vertex: str = ""
    required: tuple[Sequence[str], Sequence[str]] = ((), ())

    def named(self, side: int, own: str) -> str:
        """Name in the tagged row of a side's column, which is not its key."""
        return self.names[side][self.own[side].index(own)]

    def of(self, rows: pa.RecordBatch, side: int) -> pa.RecordBatch:
        """Rows of one side, tagged; no column is copied.

        Raises:
            GraphError: a required column holds a null.
        """
        count = rows.num_rows
        for name in self.required[side]:
            if nulls := rows.column(name).null_count:
                raise GraphError(
                    f"{self.vertex!r} was given {nulls} nulls in column {name!r}; filter them or "
                    "fill them in before key_by"
                )
        given = dict(zip(self.names[side], self.own[side], strict=True))
        arrays = [rows.column(self.keys[side]), pa.array(np.full(count, side, dtype=np.int64))]
        for field in list(self.schema)[len(arrays) :]:
            own = given.get(field.name)
            arrays.append(pa.nulls(count, field.type) if own is None else rows.column(own))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def tagged(keys: tuple[str, str], schemas: Sequence[pa.Schema]) -> Tagged:
    """The tagged row of two streams with these `schemas`, grouped by `keys`."""
    kind = schemas[0].field(keys[0]).type
    fields = [pa.field(keys[0], kind), pa.field(SIDE, pa.int64())]
    names: tuple[list[str], list[str]] = ([], [])
    own: tuple[list[str], list[str]] = ([], [])
    for side, schema in enumerate(schemas):
        for field in schema:
            if field.name != keys[side]:
                names[side].append(f"join.{side}.{field.name}")
                own[side].append(field.name)
                fields.append(pa.field(names[side][-1], field.type))
    return Tagged(pa.schema(fields), names, own, keys)


class SidesOperator:
    """Tags the batches of its two inputs."""

    def __init__(self, form: Tagged) -> None:
        """Tag in this `form`."""
        self._form = form

    def open(self, context: OperatorContext) -> None:
        """Take the ports: left and right."""
        self._inputs = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Tag what is queued while there is room below."""
        for side, port in enumerate(self._inputs):
            while self._output.ready() and (message := port.pull()) is not None:
                rows = message.payload
                assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
                self._output.forward(side, message, self._form.of(rows, side))
