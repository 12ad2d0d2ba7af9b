"""What a query is loaded with: shares of the greatest rate measured, or of a cap below it.

Flow: rates of the timed runs, percents asked for, a cap -> [loads_of] -> [Load] for each -> the
schedule, figures, the table. Pure.

Invariants
  LD1  A load says what it truly is of the maximum. Where a cap bites, the percent asked for is one
       of the cap, and no bound of a share of the maximum is judged (`Load.capped`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Load:
    """One rate.

    Attributes:
        share: percent asked for, of the maximum or of the cap.
        rate: events a second.
        maximum: the greatest rate measured, events a second.
        capped: whether the percent is of a cap below the maximum.
    """

    share: int
    rate: int
    maximum: float
    capped: bool = False

    @property
    def of_maximum(self) -> float:
        """Percent of the maximum that is really sent."""
        return 100 * self.rate / self.maximum

    @property
    def label(self) -> str:
        """What figures and the table call it (LD1)."""
        if not self.capped:
            return f"{self.share} %"
        return f"{self.of_maximum:.3g} % ({self.share} % of --rate-max)"


def loads_of(measured: Sequence[float], shares: Sequence[int], cap: int | None) -> list[Load]:
    """The loads of a query, in the order of the shares.

    Args:
        measured: events a second of each timed run; the maximum is their median.
        shares: percents, rising.
        cap: events a second that shares are of at most; None: nothing but the maximum.
    """
    maximum = median(measured)
    capped = cap is not None and cap < maximum
    of = cap if cap is not None and capped else maximum
    return [Load(share, max(1, round(of * share / 100)), maximum, capped) for share in shares]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a query is loaded: what moves, and how events come.

    Attributes:
        strategy: None: nothing moves.
        group: size of the groups that events are shuffled in; 1: in order.
    """

    strategy: str | None
    group: int = 1

    @property
    def label(self) -> str:
        """What figures and the table call it."""
        moves = self.strategy or "none"
        return moves if self.group == 1 else f"out of order, {moves}"
