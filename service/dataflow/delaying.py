"""Rows put off to a later time.

Flow: operator -> [DelayOperator] -> operator. Rows of a time wait, under a capability at the time
they are put off to, until the frontier says that no more can come to be put off there; then they
go on, all at that time. Their credit is returned when they come (O3 of the operators).

Invariants
  DL1  Rows go on at `until(their epoch)`, the counters of loops unchanged, times ascending, rows of
       one time in the order they came.
  DL2  `until` never leads back, and its results are epochs; all else ends the job, both named.
  DL3  Rows from below a cut that are put off to it or beyond are seen, whether they came before the
       cut was marked or after; all of them have, once the input's frontier has reached it.
"""

from __future__ import annotations

from collections import deque

import pyarrow as pa

from service.dataflow.notificator import Notificator
from service.dataflow.operator import Capability, Message, OperatorContext, payload_size
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.row_vertices import Postponement
from service.errors import GraphError, UserFunctionError

#: Exclusive bound of epochs: control records have them as 63-bit numbers.
EPOCH_END = (1 << 63) - 1


def postponed(name: str, until: Postponement, epoch: int) -> int:
    """The epoch to which rows of `epoch` are put off.

    Raises:
        GraphError: it is before `epoch`, or no epoch at all (DL2).
    """
    later = until(epoch)
    if isinstance(later, bool) or not isinstance(later, int):
        raise GraphError(
            f"delay {name!r} put epoch {epoch} off to {later!r}; it must return a whole number of "
            "microseconds since 1970"
        )
    if not epoch <= later < EPOCH_END:
        raise GraphError(
            f"delay {name!r} put epoch {epoch} off to {later}; it must lie at or after {epoch} "
            f"and below {EPOCH_END}"
        )
    return later


class Rounding:
    """Puts epochs off to the next multiple of a step."""

    def __init__(self, step: int) -> None:
        """`step` is in microseconds."""
        self._step = step

    def __call__(self, epoch: int) -> int:
        """The least multiple at or after `epoch`."""
        return -(-epoch // self._step) * self._step


class DelayOperator:
    """Keeps rows until their later time has come."""

    def __init__(self, name: str, until: Postponement) -> None:
        """Put rows off by `until`; `name` is for errors."""
        self._name = name
        self._until = until
        #: Rows by the time they wait for, and their bytes.
        self._waiting: dict[Timestamp, list[pa.RecordBatch]] = {}
        #: The earliest epoch of the rows that wait for a time.
        self._since: dict[Timestamp, int] = {}
        #: Cuts of checkpoints, and whether rows were put off across them (DL3).
        self._cuts: dict[int, bool] = {}
        #: Rows whose time has come, with the right to send them.
        self._due: deque[tuple[Capability, deque[pa.RecordBatch]]] = deque()
        self.held_bytes = 0

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs
        self._notificator = Notificator(context.inputs)

    def mark(self, cut: int) -> None:
        """See whether rows are put off across `cut`, from now on; those that wait count (DL3)."""
        self._cuts[cut] = any(since < cut <= later[0] for later, since in self._since.items())

    def forget(self, cut: int) -> None:
        """A marked cut is asked for no more."""
        del self._cuts[cut]

    def has_passed(self, cut: int) -> bool:
        """Whether no row from below `cut` can come any more."""
        return self._input.frontier().reached(cut)

    def holds_across(self, cut: int) -> bool:
        """Whether rows from below a marked cut were put off to it or beyond."""
        return self._cuts[cut]

    def step(self) -> None:
        """Keep what has come, and send what has waited long enough, while there is room.

        Raises:
            GraphError: `until` leads back (DL2).
            UserFunctionError: `until` raised.
        """
        while (message := self._input.pull()) is not None:
            self._keep(message)
        for time, right in self._notificator.delivered():
            assert right is not None, "asked with a capability"
            self._due.append((right, deque(self._waiting.pop(time))))
            del self._since[time]
        while self._due:
            right, batches = self._due[0]
            while batches:
                if not self._output.ready():
                    return
                rows = batches.popleft()
                self.held_bytes -= payload_size(rows)
                self._output.send(right, rows)
            right.drop()
            self._due.popleft()

    def _keep(self, message: Message) -> None:
        rows = message.payload
        assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
        epoch, *counters = message.time
        try:
            later = (postponed(self._name, self._until, epoch), *counters)
        except GraphError:
            raise
        except Exception as error:  # a function of a user may raise anything
            raise UserFunctionError(
                self._name, message.time, rows.num_rows, rows.schema.names, error
            ) from error
        if later not in self._waiting:
            self._waiting[later] = []
            self._since[later] = epoch
            right = self._output.retain(0, message)
            right.downgrade(later)
            self._notificator.notify_at(right)
        self._waiting[later].append(rows)
        self._since[later] = min(self._since[later], epoch)
        for cut in self._cuts:
            if epoch < cut <= later[0]:
                self._cuts[cut] = True
        self.held_bytes += payload_size(rows)
