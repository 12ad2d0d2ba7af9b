"""In which order things happen in a tested job: in turn, or as a seed decides.

Flow: Cluster -> [Schedule] -> StandaloneJob's methods, one at a time.

Invariants
  SC1  The same seed and the same calls give the same order.
  SC2  At rest nothing is left that could happen at this time.
Cannot show: orders that depend on how long something takes; a job here takes no time.
"""

from __future__ import annotations

import numpy as np

from service.errors import UsageError
from service.standalone.job import StandaloneJob

#: Turns after which a job that finds no rest never will, and things that happen under a seed.
_TURNS_MAX = 100_000
#: Most things that happen between two calls of a test.
_WHILE = 120
#: Rows that a poll may bring: batches are cut elsewhere than a test cuts them.
_PORTIONS = (1, 2, 3, 7, 50, 10_000)
#: How often each kind of thing is tried, in this order: step, deliver, store, log, input, control.
_WEIGHTS = np.array([6, 6, 2, 2, 3, 1]) / 20


class Schedule:
    """What happens next."""

    def __init__(self, seed: int | None) -> None:
        """Draw by `seed`; None: everything in turn."""
        self._draw = None if seed is None else np.random.default_rng(seed)

    @property
    def draws(self) -> bool:
        """Whether a seed decides."""
        return self._draw is not None

    def portion(self) -> int | None:
        """How many rows a poll brings; None: those that were sent together."""
        if self._draw is None:
            return None
        return int(self._draw.choice(_PORTIONS))

    def to_rest(self, job: StandaloneJob, now_us: int) -> None:
        """Let everything happen that can (SC2).

        Raises:
            UsageError: it does not end.
        """
        for _ in range(_TURNS_MAX):
            if self._draw is not None:
                self.for_a_while(job, now_us)
            if not job.turn(now_us):
                return
        raise UsageError(
            f"the flow does not come to rest after {_TURNS_MAX:,} turns; does a loop let its rows "
            "go, as iterate(..., rounds_max=...) makes sure?"
        )

    def for_a_while(self, job: StandaloneJob, now_us: int) -> None:
        """Let some things happen, as the seed decides; maybe none."""
        draw = self._draw
        assert draw is not None, "only a seed knows how long a while is"
        for kind in draw.choice(_WEIGHTS.size, size=int(draw.integers(_WHILE)), p=_WEIGHTS):
            if job.ended:
                return
            peer = int(draw.integers(len(job.peers)))
            most = int(draw.choice((1, 1, 2, 4)))
            match int(kind):
                case 0:
                    job.step(peer, now_us)
                case 1:
                    links = job.links()
                    if links:
                        job.deliver(links[int(draw.integers(len(links)))], most)
                case 2:
                    job.acknowledge(peer, most)
                case 3:
                    job.read_log(peer, now_us, most)
                case 4:
                    job.read_input(peer, now_us)
                case _:
                    job.control(now_us)
