"""Times at which nothing is put off: where a flow with `delay` can be cut.

Flow: delays of the flow -> [ClearCuts] -> Checkpoints, which cuts there. Pure, but for what the
functions of users do.

Rows that a delay keeps are in no bin, and positions have passed them: a checkpoint may hold none. A
cut c is *clear* when rows of c - 1 are put off to c - 1 itself by every delay. Of a delay that
never leads a later time to an earlier one than an earlier time, as rounding does, rows below a
clear cut then go on below it.

Invariants
  CC1  `at` gives the least clear cut at or after a time, of delays as above.
  CC2  Of other delays a clear cut may have rows across it; `DelayOperator` sees them (DL3), and the
       checkpoint is aborted.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.dataflow.delaying import postponed
from service.dataflow.row_vertices import DelayVertex

#: How often a delay is asked before it counts as one that puts every time off: 1 ms of work.
TRIES_MAX = 2_000


class ClearCuts:
    """The clear cuts of some delays; without any, every time is one."""

    def __init__(self, delays: Sequence[DelayVertex]) -> None:
        """Look for times that all of `delays` leave alone."""
        self._delays = tuple(delays)
        #: What was found last: from where, and which cut.
        self._from = self._found = 0

    @property
    def names(self) -> str:
        """The delays, for messages."""
        return ", ".join(repr(vertex.name) for vertex in self._delays)

    def at(self, earliest: int) -> int | None:
        """The least clear cut at or after `earliest`; None if none was found in so many tries.

        A function of a user that raises has no clear cut.
        """
        if not self._from < earliest <= self._found:
            found = self._next(earliest)
            if found is None:
                return None
            self._from, self._found = earliest - 1, found
        return self._found

    def _next(self, earliest: int) -> int | None:
        last, left_alone, tries = earliest - 1, 0, 0
        while left_alone < len(self._delays):
            vertex = self._delays[tries % len(self._delays)]
            try:
                later = postponed(vertex.name, vertex.until, last)
            except Exception:  # noqa: BLE001 - a function of a user may raise anything
                return None
            left_alone = left_alone + 1 if later == last else 0
            last, tries = later, tries + 1
            if tries > TRIES_MAX:
                return None
        return last + 1
