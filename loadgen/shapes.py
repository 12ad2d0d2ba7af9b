"""Rates that change: square, sine, steps, all as steps of constant rate, repeated for ever.

Flow: options -> [steps_of] -> [Varying], a Schedule -> producer; `plan_of`/`schedule_of` carry a
schedule to the meter as a document. Pure, integers only, so that all processes agree.

Let M(t) be the number of events due until t, times 10**6: a line of slope `rate` in each step.
Event n is due at the last t with M(t) <= n * 10**6; so in a step of rate 0 nothing is due.

Invariants
  SH1  S1 and S2 of `schedule` hold for every sequence of steps.
  SH2  Within a step of rate r, events are 1/r apart, and their number over a whole period is exact
       however long it runs: fractions of an event are carried over, not dropped.

Source: the rate shapes of the Beam NEXMark generator, whose sine is made of steps too; Bhaskara's
        approximation of the sine, whose error is below 0.2 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from loadgen.schedule import NUMBER_MAX, US_PER_SECOND, ConstantRate, Schedule

#: (events per second, length in microseconds)
Step = tuple[int, int]
_SINE_STEPS = 100
_RATE_MAX = 100_000_000


class Shape(StrEnum):
    """How the rate changes."""

    CONSTANT = "constant"
    SQUARE = "square"
    SINE = "sine"
    STEPS = "steps"


@dataclass(frozen=True, slots=True)
class Varying:
    """Events at the rates of some steps, one after the other, again and again.

    Attributes:
        start_us: time of event 0 (unless the first step has rate 0), epoch microseconds.
        steps: at least one with a rate.
        total: how many events there are.

    Raises:
        ValueError: no step has a rate, or a value is out of range.
    """

    start_us: int
    steps: tuple[Step, ...]
    total: int
    #: Where each step begins in its period, and the period's length.
    _edges: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    #: M there.
    _mass: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _rates: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the ranges and add the steps up."""
        for rate, length_us in self.steps:
            if not (0 <= rate <= _RATE_MAX and 1 <= length_us <= 10**12):
                raise ValueError(f"step of {rate} events/s for {length_us} µs: out of range")
        if not any(rate for rate, _ in self.steps):
            raise ValueError("no step has a rate: nothing would ever be due")
        if not 0 <= self.total < NUMBER_MAX:
            raise ValueError(f"total {self.total}: must be 0..{NUMBER_MAX - 1}")
        mass = sum(rate * length_us for rate, length_us in self.steps)
        if mass >= 1 << 62:
            raise ValueError("the steps have too many events in one period")
        table = np.array(self.steps, dtype=np.int64)
        zero = np.zeros(1, dtype=np.int64)
        put = object.__setattr__  # A frozen value is written once, here.
        put(self, "_rates", table[:, 0])
        put(self, "_edges", np.concatenate([zero, np.cumsum(table[:, 1])]))
        put(self, "_mass", np.concatenate([zero, np.cumsum(table[:, 0] * table[:, 1])]))

    @classmethod
    def lasting(cls, start_us: int, steps: Sequence[Step], length_us: int) -> Varying:
        """All events that are due within a length of time."""
        endless = cls(start_us, tuple(steps), NUMBER_MAX - 1)
        return cls(start_us, tuple(steps), endless.due(start_us + length_us - 1))

    def times_us(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Intended send time of each event, epoch microseconds, floored."""
        mass = numbers * US_PER_SECOND
        period, rest = np.divmod(mass, self._mass[-1])
        step = np.searchsorted(self._mass, rest, side="right") - 1
        within = (rest - self._mass[step]) // self._rates[step]
        times: NDArray[np.int64] = (
            self.start_us + period * self._edges[-1] + self._edges[step] + within
        )
        return times

    def due(self, now_us: int) -> int:
        """How many events are due at a time (S2)."""
        return min(self.total, self.reached(now_us))

    def reached(self, now_us: int) -> int:
        """How many would be due at a time if the stream had no end."""
        elapsed = now_us - self.start_us
        if elapsed < 0:
            return 0
        period, rest = divmod(elapsed + 1, int(self._edges[-1]))
        step = int(np.searchsorted(self._edges, rest, side="right")) - 1
        mass = period * int(self._mass[-1]) + int(self._mass[step])
        if step < len(self.steps):
            mass += (rest - int(self._edges[step])) * self.steps[step][0]
        return -(-mass // US_PER_SECOND)


def steps_of(shape: Shape, rate: int, next_rate: int, period_us: int) -> list[Step]:
    """The steps of a square or a sine between two rates; the first half or end is `rate`.

    Raises:
        ValueError: the period is too short for the steps.
    """
    if shape is Shape.SQUARE:
        half = period_us // 2
        if half < 1:
            raise ValueError(f"period of {period_us} µs: too short for two rates")
        return [(rate, half), (next_rate, period_us - half)]
    if period_us < _SINE_STEPS:
        raise ValueError(f"period of {period_us} µs: too short for {_SINE_STEPS} steps")
    edges = [period_us * i // _SINE_STEPS for i in range(_SINE_STEPS + 1)]
    steps = []
    for i in range(_SINE_STEPS):
        # The cosine in the middle of the step, as a fraction; a turn has 200 units.
        up, down = _cosine(2 * i + 1)
        between = ((rate + next_rate) * down + (rate - next_rate) * up) // (2 * down)
        steps.append((between, edges[i + 1] - edges[i]))
    return steps


def parsed_steps(text: str) -> list[Step]:
    """Steps as people write them: `20000x10,50000x2.5` is 20,000 events/s for 10 s, and so on.

    Raises:
        ValueError: it is not written so.

    >>> parsed_steps("20000x10,0x0.5")
    [(20000, 10000000), (0, 500000)]
    """
    steps = []
    for part in text.split(","):
        rate, _, seconds = part.strip().partition("x")
        try:
            steps.append((int(rate), round(float(seconds) * US_PER_SECOND)))
        except ValueError:
            raise ValueError(
                f"steps {text!r}: write RATExSECONDS,…, such as 20000x10,50000x5"
            ) from None
    return steps


def plan_of(schedule: Schedule) -> dict[str, object]:
    """A schedule as a document."""
    steps = schedule.steps if isinstance(schedule, Varying) else None
    rate = schedule.rate if isinstance(schedule, ConstantRate) else None
    assert steps or rate, "a schedule is one of these"
    return {
        "start_us": schedule.start_us,
        "total": schedule.total,
        **({"rate": rate} if rate else {"steps": steps}),
    }


def schedule_of(plan: Mapping[str, object]) -> Schedule:
    """The schedule that `plan_of` described.

    Raises:
        KeyError: it is no such document.
        ValueError: a value is out of range.
    """
    start_us, total = cast("int", plan["start_us"]), cast("int", plan["total"])
    if "rate" in plan:
        return ConstantRate(start_us, cast("int", plan["rate"]), total)
    steps = cast("list[list[int]]", plan["steps"])
    return Varying(start_us, tuple((rate, length) for rate, length in steps), total)


def _cosine(units: int) -> tuple[int, int]:
    """Cosine of an angle in 200ths of a turn, as numerator and denominator."""
    half, within = divmod((units + 50) % 200, 100)
    product = within * (100 - within)
    return (-4 if half else 4) * product, 12_500 - product
