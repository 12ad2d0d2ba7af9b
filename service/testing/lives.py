"""A tested job through its lives: it begins, works, falls, and begins again on the same broker.

Flow: Cluster -> [JobLives]: a StandaloneJob or none, the clock, the schedule -> KitBroker.

Invariants
  JL1  The clock never goes back, and a later generation's lies not before an earlier one's.
  JL2  Whatever is raised while it works ends the job, as it would end its processes.
"""

from __future__ import annotations

from collections.abc import Callable

from service.dataflow.flow import Flow
from service.errors import UsageError
from service.migration.controller_events import ControllerSettings
from service.migration.pacing import Pacing
from service.standalone.job import StandaloneJob
from service.standalone.surroundings import shape_of
from service.testing.broker import KitBroker
from service.testing.schedule import Schedule

#: Any time will do that is not zero.
FIRST_US = 1_000_000_000
#: Steps of the clock: promises of the controller come as often.
STEP_US = 1_000
#: A long way is gone in fewer, longer steps.
_STEPS_MAX = 100
#: A move or stop that has not ended after so many steps never will.
_WAIT_STEPS_MAX = 200_000
#: Everything a fraction of what processes use, since nothing here takes time.
_SETTINGS = ControllerSettings(
    lookahead_us=5_000,
    plan_lookahead_us=2_000,
    promise_every_us=STEP_US,
    pacing=Pacing(spacing_us=1_000, spacing_us_min=500, spacing_us_max=5_000),
)


class JobLives:
    """One job, up or down."""

    def __init__(
        self,
        flow: Flow,
        broker: KitBroker,
        schedule: Schedule,
        *,
        workers: int,
        gateways: int,
        bins: int,
    ) -> None:
        """Nothing begins yet.

        Raises:
            UsageError: no workers or no gateways.
        """
        self.now_us = FIRST_US
        self._flow = flow
        self._broker = broker
        self._schedule = schedule
        self._bins = bins
        self._partitions = gateways
        self._job: StandaloneJob | None = None
        #: Why there is no job; None also while it has not begun.
        self._down: str | None = None
        self._resize(workers, gateways)

    @property
    def is_up(self) -> bool:
        """Whether the job runs, or will as soon as the columns of its sources are known."""
        return self._down is None

    @property
    def running(self) -> StandaloneJob:
        """The job, which begins when it is first needed.

        Raises:
            UsageError: it is down, or columns of a source are unknown.
            MegaphoneError: it cannot begin; it is then down.
        """
        if self._down is not None:
            raise UsageError(f"the job is down: {self._down}; restart() it first")
        if self._job is None:
            if self._broker.unknown:
                raise UsageError(
                    f"the columns of {self._broker.unknown} are unknown: send rows first, or give "
                    "schemas={...} or registry=..."
                )
            self._begin()
        assert self._job is not None, "it has just begun"
        return self._job

    def _begin(self) -> None:
        shape = shape_of(
            self._flow,
            workers=self._workers,
            gateways=self._gateways,
            bins=self._bins,
            partitions=self._partitions,
            until_end=False,
        )
        try:
            self._job = StandaloneJob(
                self._flow,
                shape,
                self._broker,
                _SETTINGS,
                self.now_us,
                remains=self._broker.remains(),
                state_dir=self._broker.state_dir(),
            )
        except Exception:  # whatever it was, there is no job (JL2)
            self.fall("it could not begin")
            raise

    def work(self) -> None:
        """To rest, or with a seed for a while; not at all before the columns are known.

        Raises:
            UsageError: the job is down.
            MegaphoneError: it failed, and is down now.
        """
        if not self._schedule.draws:
            self.settle()
            return
        job = self.running
        try:
            self._schedule.for_a_while(job, self.now_us)
        except Exception:  # whatever it was, the job is gone (JL2)
            self.fall("it failed")
            raise

    def settle(self) -> None:
        """Until nothing is left to do at this time; raises as `work` does.

        So much may have been sent at one time that there is no further tick in it; then the clock
        goes on, or rows would be left unread.
        """
        job = self.running
        try:
            self._schedule.to_rest(job, self.now_us)
            while job.is_out_of_ticks():
                self.now_us += STEP_US
                self._schedule.to_rest(job, self.now_us)
        except Exception:  # whatever it was, the job is gone (JL2)
            self.fall("it failed")
            raise

    def advance(self, us: int) -> None:
        """Let the clock go on, and a job that is up with it; raises as `work` does."""
        step = max(STEP_US, -(-us // _STEPS_MAX))
        until = self.now_us + us
        while self.now_us < until:
            self.now_us = min(until, self.now_us + step)
            if self.is_up:
                self.work()

    def await_(self, holds: Callable[[], bool], what: str) -> None:
        """Let the clock go on until something holds; raises as `work` does."""
        steps = 0
        while not holds():
            assert steps < _WAIT_STEPS_MAX, f"{what} waits for nothing but the clock"
            steps += 1
            self.now_us += STEP_US
            self.work()

    def fall(self, why: str) -> None:
        """Lose what is in memory."""
        self._job, self._down = None, why

    def restart(self, workers: int | None, gateways: int | None) -> None:
        """Be up again, on the same broker.

        Raises:
            UsageError: it is up, or a number is wrong.
        """
        if self._down is None:
            raise UsageError("the job runs; stop() it or crash() it before restart()")
        self._resize(
            self._workers if workers is None else workers,
            self._gateways if gateways is None else gateways,
        )
        self._down = None
        if not self._broker.unknown:
            self.work()

    def _resize(self, workers: int, gateways: int) -> None:
        if min(workers, gateways) < 1:
            raise UsageError(f"a job has workers and gateways, not {workers} and {gateways}")
        self._workers, self._gateways = workers, gateways
