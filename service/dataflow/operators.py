"""Operators without state, on whole batches.

Flow: source or S -> [MapOperator | ConcatOperator] -> F or sink, all in one process.
"""

from __future__ import annotations

import pyarrow as pa

from service.dataflow.operator import OperatorContext
from service.dataflow.vertices import BatchFunction
from service.errors import GraphError, UserFunctionError


class MapOperator:
    """Applies a function to every batch; empty results are not sent on."""

    def __init__(self, name: str, function: BatchFunction, schema: pa.Schema) -> None:
        """Run `function`, whose results must have the columns of `schema`; `name` is for errors."""
        self._name = name
        self._function = function
        self._schema = schema

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Transform what is queued while there is room below.

        Raises:
            GraphError: the function returned something else than it did for the empty batch.
            UserFunctionError: it raised.
        """
        while self._output.ready() and (message := self._input.pull()) is not None:
            given = message.payload
            assert isinstance(given, pa.RecordBatch), "a data channel carries record batches"
            try:
                rows = self._function(given)
            except Exception as error:  # a function of a user may raise anything
                raise UserFunctionError(
                    self._name, message.time, given.num_rows, columns_of(given.schema), error
                ) from error
            if not (isinstance(rows, pa.RecordBatch) and rows.schema.equals(self._schema)):
                self._check(rows)
            if rows.num_rows:
                self._output.forward(0, message, rows)

    def _check(self, rows: object) -> None:
        if not isinstance(rows, pa.RecordBatch):
            raise GraphError(
                f"{self._name!r} must return a pyarrow.RecordBatch, not {type(rows).__name__}"
            )
        expected, found = columns_of(self._schema), columns_of(rows.schema)
        if expected != found:
            raise GraphError(
                f"{self._name!r} returned columns {found}, but {expected} when it was tried on an "
                "empty batch; it must return the same columns always"
            )


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Names and types of columns, in order, for comparing and for messages."""
    return dict(zip(schema.names, map(str, schema.types), strict=True))


class ConcatOperator:
    """Passes the batches of all its inputs on."""

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        self._inputs = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Forward what is queued while there is room below."""
        for number, port in enumerate(self._inputs):
            while self._output.ready() and (message := port.pull()) is not None:
                self._output.forward(number, message, message.payload)
