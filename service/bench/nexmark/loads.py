"""What a query is loaded with: shares of its maximum, or of a cap below it.

Flow: the maximum (in memory the median rate, through Kafka `sustained`), percents asked for ->
[loads_of] -> [Load] for each -> the schedule, figures, the table. Pure.

Invariants
  LD1  Where a cap ended the search for the maximum, a load says that it is a share of the cap, and
       no bound of a share of the maximum is judged (`Load.capped`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """One rate.

    Attributes:
        share: percent asked for, of the maximum or of the cap.
        rate: events a second.
        capped: whether the percent is of a cap that the maximum is not below.
    """

    share: int
    rate: int
    capped: bool = False

    @property
    def label(self) -> str:
        """What figures and the table call it (LD1)."""
        return f"{self.share} % of --rate-max" if self.capped else f"{self.share} %"


def loads_of(maximum: float, shares: Sequence[int], *, capped: bool = False) -> list[Load]:
    """The loads of a query, in the order of the shares.

    Args:
        maximum: events a second, or the cap.
        shares: percents, rising.
        capped: whether it is the cap.
    """
    return [Load(share, max(1, round(maximum * share / 100)), capped) for share in shares]


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
