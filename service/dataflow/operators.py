"""Operators without state, on whole batches.

Flow: source or S -> [MapOperator | ConcatOperator] -> F or sink, all in one process.
"""

from __future__ import annotations

import pyarrow as pa

from service.dataflow.flow import BatchFunction
from service.dataflow.operator import OperatorContext
from service.errors import GraphError


class MapOperator:
    """Applies a function to every batch; empty results are not sent on."""

    def __init__(self, name: str, function: BatchFunction) -> None:
        """Run `function`; `name` is for its errors."""
        self._name = name
        self._function = function

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Transform what is queued while there is room below."""
        while self._output.ready() and (message := self._input.pull()) is not None:
            rows = self._function(message.payload)  # type: ignore[arg-type]  # data channel
            if not isinstance(rows, pa.RecordBatch):
                raise GraphError(
                    f"{self._name!r} must return a pyarrow.RecordBatch, not {type(rows).__name__}"
                )
            if rows.num_rows:
                self._output.forward(0, message, rows)


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
