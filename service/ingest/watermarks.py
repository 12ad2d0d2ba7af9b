"""How far event time has come in the partitions of one source that one gateway reads.

Flow: rows of a poll -> [Estimator] -> what each partition allows -> [PartitionWatermarks] -> the
gateway's word about the source, epoch by epoch -> every S of a vertex with event time.

A partition that is silent would hold all windows open. So one that has been for `idle_after`, and
was read to its end, is idle: left out until it speaks again.

Invariants
  PW1  A partition's watermark never falls, and depends on the rows stamped so far and on nothing
       else: a restart with positions and watermarks of one cut goes on as if there had been none.
  PW2  A partition that is below its end is not idle, however long nothing of it has come: who
       catches up after an outage takes nothing for late that was not.
  PW3  The source's watermark is the least of the partitions that are not idle; None if all are.
Pure: the clock is the epoch. Source: DESIGN §4 (watermarks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.dataflow.event_time import Watermarks, in_unit, unit_of
from service.errors import UserFunctionError
from service.statestore.timed import NEVER

#: (topic, partition) of an input.
TopicPartition = tuple[str, int]
#: Whether a partition was read to its end.
AtEnd = Callable[[TopicPartition], bool]


class Estimator:
    """From rows of one partition to the watermark they allow."""

    def __init__(self, source: str, watermarks: Watermarks, schema: pa.Schema) -> None:
        """Estimate for the source named so, whose rows have this `schema`.

        Raises:
            GraphError: the event time is no integer, or `out_of_orderness` no whole number of it.
        """
        self._source = source
        self.column = watermarks.column
        self.unit = unit_of(schema.field(self.column), watermarks.unit, source)
        self._allowed = in_unit(watermarks.out_of_orderness, self.unit, "out_of_orderness")
        self._generator = watermarks.generator

    def of(self, rows: pa.RecordBatch) -> int | None:
        """What these rows of one partition allow; None: they say nothing.

        Raises:
            UserFunctionError: the generator raised, or returned no integer.
        """
        if not rows.num_rows:
            return None
        if self._generator is None:
            greatest = pc.max(rows.column(self.column).view(pa.int64())).as_py()
            return None if greatest is None else max(NEVER, greatest - self._allowed)
        try:
            found = self._generator(rows)
            if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
                found = int(found.__index__())
        except Exception as error:  # a function of a user may raise anything
            kinds = dict(zip(rows.schema.names, map(str, rows.schema.types), strict=True))
            raise UserFunctionError(self._source, (), rows.num_rows, kinds, error) from error
        return None if found is None else min(max(NEVER, found), -NEVER - 1)

    def by_partition(
        self,
        rows: pa.RecordBatch,
        partitions: Sequence[TopicPartition],
        which: Callable[[], NDArray[np.int64]],
    ) -> dict[TopicPartition, int]:
        """What the rows of one poll allow, by partition.

        Args:
            rows: of some of the partitions.
            partitions: at least those that have rows.
            which: asked, if there are several, for the partition of each row, as a place in
                `partitions`.
        """
        if len(partitions) == 1:
            given = self.of(rows)
            return {} if given is None else {partitions[0]: given}
        found: dict[TopicPartition, int] = {}
        places = which() if rows.num_rows else np.empty(0, dtype=np.int64)
        for place in np.unique(places).tolist():
            given = self.of(rows.filter(pa.array(places == place)))
            if given is not None:
                found[partitions[place]] = given
        return found


class PartitionWatermarks:
    """The partitions of one source in one gateway."""

    def __init__(self, idle_after_us: int | None, partitions: Mapping[TopicPartition, int]) -> None:
        """Begin with the watermark of each partition, NEVER if nothing of it was read.

        Args:
            idle_after_us: how long a partition is silent before it is idle; None: it never is.
            partitions: those that are read here, at least one.
        """
        #: Watermark of each partition, as of the last epoch closed.
        self.values = dict(partitions)
        self._idle_after_us = idle_after_us
        #: Epoch in which each was last heard of, or the first epoch.
        self._heard: dict[TopicPartition, int] = {}
        self._idle: set[TopicPartition] = set()

    def saw(self, epoch: int, allowed: Mapping[TopicPartition, int]) -> None:
        """Rows were stamped with `epoch`, which allow these watermarks (PW1)."""
        for which, watermark in allowed.items():
            self.values[which] = max(self.values[which], watermark)
            self._heard[which] = epoch
            self._idle.discard(which)

    def watermark(self, epoch: int, at_end: AtEnd) -> int | None:
        """The source's watermark in `epoch` (PW3); `at_end` is asked where silence was long."""
        if self._idle_after_us is not None:
            for which in self.values:
                silent = epoch - self._heard.setdefault(which, epoch)
                if silent >= self._idle_after_us and which not in self._idle and at_end(which):
                    self._idle.add(which)
        live = [value for which, value in self.values.items() if which not in self._idle]
        return min(live, default=None)

    @property
    def idle(self) -> frozenset[TopicPartition]:
        """Partitions that are left out."""
        return frozenset(self._idle)
