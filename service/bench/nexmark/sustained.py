"""The maximum sustained rate of a query through Kafka, on a machine that all parts share.

Flow: backlog rate, cap -> [stairs_of] -> an open loop in which nothing moves -> [sustained] ->
shares of it are what the query is loaded with. Pure.

A backlog says what the job alone can do. Under load a broker that writes, a generator and a meter
want the same cores, so that the rate at which results still come is less, and how much less cannot
be known without trying.

Invariants
  SU1  A rate is sustained if the generator kept to its schedule and results came as events did: of
       a step's results half within HALF_MS and 99 % within MOST_MS. A job that is too slow by a
       tenth is behind by HALF_MS in the middle of a step.
  SU2  The maximum is the fastest step of which this is true: what was behind before it had to be
       caught up with, so a step that a stall of the machine spoiled takes nothing from the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.bench.nexmark.open_loop import RateRun

#: Share of the events that may leave late.
LATE_MAX = 0.01
HALF_MS, MOST_MS = 200.0, 1_000.0
#: Each step is faster than the one before by this.
_RISE = 1.25
#: The first step, and the fastest there is: more than a generator and a broker do on two cores.
_FIRST, _LAST = 25_000, 600_000


def stairs_of(backlog: float, cap: int | None) -> list[int]:
    """The rates to try, rising, events a second; the last is the most that is looked for.

    Args:
        backlog: what the job works off alone, events a second.
        cap: look for no more; None: no cap.
    """
    top = max(1, round(min(backlog, _LAST, _LAST if cap is None else cap)))
    below, rate = [], float(_FIRST)
    while rate < top:
        below.append(round(rate))
        rate *= _RISE
    return [*below, top]


def sustained(steps: Sequence[RateRun]) -> int:
    """The fastest rate that was sustained, events a second; 0 if none was (SU1, SU2)."""
    return max((step.rate for step in steps if _keeps_up(step)), default=0)


def _keeps_up(step: RateRun) -> bool:
    found = step.steady
    in_time = found is not None and found.p50 <= HALF_MS and found.p99 <= MOST_MS
    return in_time and step.late <= LATE_MAX
