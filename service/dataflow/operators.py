"""Operators without state, on whole batches: functions, masks and unions.

Flow: source or S -> [MapOperator | FlatMapOperator | BranchOperator | InspectOperator |
ConcatOperator] -> F or sink, all in one process.

Invariants
  OP1  A batch a function raises on ends the job, or leaves whole by the errors output, its rows as
       they were; of a function of single records only the records it raises on do.
  OP2  Nothing is pulled before every output has room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.masks import checked_mask
from service.dataflow.operator import Capability, Message, OperatorContext
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.record_functions import RecordFunction
from service.dataflow.row_vertices import BatchFunction, FlatFunction, Inspection, MaskFunction
from service.errors import GraphError, UserFunctionError

#: The column that error streams add.
ERROR_COLUMN = "error"
#: What no function can return.
_NO_MORE = object()


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Names and types of columns, in order, for comparing and for messages."""
    return dict(zip(schema.names, map(str, schema.types), strict=True))


def error_schema(given: pa.Schema) -> pa.Schema:
    """Columns of an error stream: those given, and the error as text."""
    return given.append(pa.field(ERROR_COLUMN, pa.string()))


class _UserOperator:
    """What all operators that run a function of the user have in common."""

    def __init__(self, name: str, *, errors: bool) -> None:
        """`name` is for errors; with `errors` the last output is for what the function refuses."""
        self._name = name
        self._catches = errors

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        self._outputs = context.outputs
        self._output = context.outputs[0]
        self._errors = context.outputs[-1] if self._catches else None

    def _next(self) -> Message | None:
        """The next batch, if there is one and room for what comes of it (OP2)."""
        for output in self._outputs:
            if not output.ready():
                return None
        return self._input.pull()

    def _failed(self, message: Message, rows: pa.RecordBatch, error: Exception) -> None:
        """A function raised on `rows` (OP1).

        Raises:
            UserFunctionError: the flow does not ask for errors.
        """
        if self._errors is None:
            raise self._error(message.time, rows, error) from error
        texts = [self._text(message.time, error)] * rows.num_rows
        self._errors.forward(0, message, with_errors(rows, texts))

    def _error(self, time: Timestamp, rows: pa.RecordBatch, error: Exception) -> UserFunctionError:
        return UserFunctionError(self._name, time, rows.num_rows, columns_of(rows.schema), error)

    def _text(self, time: Timestamp, error: Exception) -> str:
        return f"{self._name!r} at {time}: {type(error).__name__}: {error}"

    def _check(self, rows: object, schema: pa.Schema) -> None:
        if not isinstance(rows, pa.RecordBatch):
            raise GraphError(
                f"{self._name!r} must return a pyarrow.RecordBatch, not {type(rows).__name__}"
            )
        expected, found = columns_of(schema), columns_of(rows.schema)
        if expected != found:
            raise GraphError(
                f"{self._name!r} returned columns {found}, but {expected} when it was tried on an "
                "empty batch; it must return the same columns always"
            )


def with_errors(rows: pa.RecordBatch, texts: Sequence[str]) -> pa.RecordBatch:
    """`rows` as an error stream has them, one text a row."""
    return rows.append_column(ERROR_COLUMN, pa.array(texts, pa.string()))


class MapOperator(_UserOperator):
    """Applies a function to every batch; empty results are not sent on."""

    def __init__(
        self, name: str, function: BatchFunction, schema: pa.Schema, *, errors: bool = False
    ) -> None:
        """Run `function`, whose results must have the columns of `schema`; `name` is for errors."""
        super().__init__(name, errors=errors)
        self._function = function
        self._schema = schema

    def step(self) -> None:
        """Transform what is queued while there is room below.

        Raises:
            GraphError: the function returned something else than it did for the empty batch.
            UserFunctionError: it raised, and the flow does not ask for errors.
        """
        while (message := self._next()) is not None:
            given = message.payload
            assert isinstance(given, pa.RecordBatch), "a data channel carries record batches"
            try:
                rows = self._function(given)
            except Exception as error:  # noqa: BLE001 - a function of a user may raise anything
                if not (self._catches and isinstance(self._function, RecordFunction)):
                    self._failed(message, given, error)
                    continue
                rows = self._sifted(message, given, self._function)
            if not (isinstance(rows, pa.RecordBatch) and rows.schema.equals(self._schema)):
                self._check(rows, self._schema)
            if rows.num_rows:
                self._output.forward(0, message, rows)

    def _sifted(
        self, message: Message, given: pa.RecordBatch, function: RecordFunction
    ) -> pa.RecordBatch:
        """Results of the records the function takes; the others leave by the side (OP1)."""
        assert self._errors is not None, "only where errors are asked for"
        rows, refused = function.sifted(given)
        if refused:
            texts = [self._text(message.time, error) for _, error in refused]
            lost = given.take(pa.array([row for row, _ in refused], pa.int64()))
            self._errors.forward(0, message, with_errors(lost, texts))
        return rows


class FlatMapOperator(_UserOperator):
    """Applies a function to every batch and sends what it gives, one batch after the other."""

    def __init__(
        self, name: str, function: FlatFunction, schema: pa.Schema, *, errors: bool = False
    ) -> None:
        """Run `function`, each of whose results must have the columns of `schema`."""
        super().__init__(name, errors=errors)
        self._function = function
        self._schema = schema
        #: Of the batch under way: it, what is still to come of it, and the right to send that.
        self._given: pa.RecordBatch | None = None
        self._parts: Iterator[Any] = iter(())
        self._right: Capability | None = None

    def step(self) -> None:
        """Send what there is room for; the rest of a batch waits under a capability.

        Raises:
            GraphError: a result has other columns than declared.
            UserFunctionError: the function raised, and the flow does not ask for errors.
        """
        while self._right is None or self._go_on(self._right):
            message = self._next()
            if message is None:
                return
            given = message.payload
            assert isinstance(given, pa.RecordBatch), "a data channel carries record batches"
            try:
                parts = self._function(given)
                # With an error stream a batch leaves by one of the two, never by both (OP1).
                self._parts = iter(list(parts) if self._catches else parts)
            except Exception as error:  # noqa: BLE001 - a function of a user may raise anything
                self._failed(message, given, error)
                continue
            self._given = given
            self._right = self._output.retain(0, message)

    def _go_on(self, right: Capability) -> bool:
        """Send more of the batch under way; whether that was the last."""
        rows: Any
        while self._output.ready():
            try:
                rows = next(self._parts, _NO_MORE)
            except Exception as error:  # a generator of a user runs here
                assert self._given is not None, "a batch is under way"
                raise self._error(right.time, self._given, error) from error
            if rows is _NO_MORE:
                right.drop()
                self._right = self._given = None
                return True
            if not (isinstance(rows, pa.RecordBatch) and rows.schema.equals(self._schema)):
                self._check(rows, self._schema)
            if rows.num_rows:
                self._output.send(right, rows)
        return False


class BranchOperator(_UserOperator):
    """Parts every batch by a mask: what it is true for leaves by output 0, the others by 1."""

    def __init__(self, name: str, mask: MaskFunction, *, errors: bool = False) -> None:
        """Part by `mask`, which is computed once a batch."""
        super().__init__(name, errors=errors)
        self._mask = mask

    def step(self) -> None:
        """Part what is queued while there is room below.

        Raises:
            UserFunctionError: the mask raised or fits no batch, and the flow asks for no errors.
        """
        while (message := self._next()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            try:
                mask = checked_mask(self._mask(rows), rows)
            except Exception as error:  # noqa: BLE001 - a function of a user may raise anything
                self._failed(message, rows, error)
                continue
            taken = mask.true_count
            if taken == rows.num_rows:
                self._output.forward(0, message, rows)
            elif taken == 0:
                self._outputs[1].forward(0, message, rows)
            else:
                # A null is not true.
                mask = mask.fill_null(False) if mask.null_count else mask
                self._output.forward(0, message, rows.filter(mask))
                self._outputs[1].forward(0, message, rows.filter(pc.invert(mask)))


class InspectOperator(_UserOperator):
    """Shows every batch to a function and passes it on."""

    def __init__(self, name: str, function: Inspection) -> None:
        """Show epochs and batches to `function`."""
        super().__init__(name, errors=False)
        self._function = function

    def step(self) -> None:
        """Show what is queued while there is room below.

        Raises:
            UserFunctionError: the function raised.
        """
        while (message := self._next()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            try:
                self._function(message.time[0], rows)
            except Exception as error:  # a function of a user may raise anything
                raise self._error(message.time, rows, error) from error
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
