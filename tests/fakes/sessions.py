"""Sessions as a person would put them together, row by row, and what may be given of one.

What is checked against it may not share its arithmetic: here every two rows are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from service.statestore.timed import ALL
from tests.fakes.windows import Row

#: Rows of a session, each with its number in the order of coming.
Numbered = list[tuple[int, Row]]
#: What a session gives, from its rows, its start and its end.
Result = Callable[[Numbered, int, int], list[tuple[Any, ...]]]


class Sessions:
    """The sessions of each key; each is a list of rows.

    Their order is that of a fold: what was in sessions that have become one by where these begin,
    then the rows of the time in the order given.
    """

    def __init__(self, gap: int, lateness: int, result: Result, *, grouped: bool = True) -> None:
        """Put rows together, of each key or, if they are not `grouped`, of all."""
        self.gap, self.lateness = gap, lateness
        self.open: list[Numbered] = []
        self._result, self._grouped = result, grouped
        self._count = 0

    def bounds(self, rows: Numbered) -> tuple[int, int]:
        """Start and end of a session."""
        times = [row[1] for _, row in rows]
        return min(times), max(times) + self.gap

    def _near(self, some: Numbered, others: Numbered) -> bool:
        return any(
            (one[0] == other[0] or not self._grouped) and abs(one[1] - other[1]) < self.gap
            for _, one in some
            for _, other in others
        )

    def apply(self, rows: Sequence[Row], watermark: int) -> tuple[list[tuple[Any, ...]], list[Row]]:
        """Results given again, and rows that are late."""
        fresh = [(self._count + place, row) for place, row in enumerate(rows)]
        self._count += len(rows)
        before = sorted(self.open, key=self.bounds)
        together: list[list[Numbered]] = []
        for part in [*before, *([each] for each in fresh)]:
            near = [parts for parts in together if any(self._near(part, each) for each in parts)]
            together = [parts for parts in together if parts not in near]
            together.append([*(each for parts in near for each in parts), part])
        again, late, kept = [], [], []
        for parts in together:
            own = [part for part in before if part in parts]
            new = [each for each in fresh if [each] in parts and [each] not in own]
            whole = [*(each for part in own for each in part), *new]
            _, end = self.bounds(whole)
            if new and self._over(end + self.lateness, watermark):
                late += [row for _, row in new]
                kept += own
                continue
            kept.append(whole)
            if new and self._over(end, watermark):
                again += self._results(whole)
        self.open = kept
        return again, late

    def fire(self, before: int, watermark: int) -> list[tuple[Any, ...]]:
        """Results of sessions that close."""
        given, kept = [], []
        for rows in self.open:
            _, end = self.bounds(rows)
            if self._over(end, watermark) and not self._over(end, before):
                given += self._results(rows)
            if not self._over(end + self.lateness, watermark):
                kept.append(rows)
        self.open = kept
        return given

    def _results(self, rows: Numbered) -> list[tuple[Any, ...]]:
        return self._result(rows, *self.bounds(rows))

    @staticmethod
    def _over(end: int, watermark: int) -> bool:
        return watermark == ALL or end <= watermark


def in_order_of_coming(rows: Numbered) -> list[Row]:
    """The rows of a session as they came."""
    return [row for _, row in sorted(rows)]


def best(rows: list[Row], count: int, *, ties: bool, lowest: bool) -> list[Row]:
    """The best rows by value; of equal ones those that stand first."""
    ordered = sorted(rows, key=lambda row: row[2] if lowest else -row[2])
    kept = ordered[:count]
    if not ties:
        return kept
    behind = ordered[len(kept) :]
    return [*kept, *(row for row in behind if row[2] == kept[-1][2])]
