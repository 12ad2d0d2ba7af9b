"""Waiting, with both eyes open: every wait of a run goes through here.

Flow: run -> [Lookout.until] -> checks of every process, the view's picture, the lag's history.

Invariants
  X1  Every wait has a deadline, and an error that says what did not happen.
  X2  At each look all processes are checked: one that is gone ends the run at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from demo.children import Child, Children
from demo.job import Job, JobFailed, MoveRequest
from demo.live import Picture, PlanView, Stage, View
from demo.load import Generated, Measured
from demo.observe import JobView
from service.broker.kinds import Broker
from service.clock import Clock
from service.errors import BrokerError

_LOOK_S = 0.1
_SECOND_US = 1_000_000


@dataclass(slots=True)
class Progress:
    """What the parts of a run have said so far; written by the threads that read them."""

    generated: Generated = field(default_factory=Generated)
    measured: Measured = field(default_factory=Measured)
    #: Moves asked for, in order.
    requests: list[MoveRequest] = field(default_factory=list)
    #: (epoch µs, records no gateway has read) at each look while the stream's events are due.
    lag: list[tuple[int, int]] = field(default_factory=list)

    def take_lag(self, now_us: int, records: int) -> None:
        """Keep the lag at a look; behind the stream's end it falls, whatever it did before."""
        schedule = self.generated.schedule
        if schedule is not None and schedule[0] <= now_us <= schedule[1]:
            self.lag.append((now_us, records))


class Lookout:
    """Waits for things to happen, and shows what goes on meanwhile."""

    def __init__(
        self, broker: Broker, children: Children, view: View, clock: Clock, seconds: float
    ) -> None:
        """Look after `broker` and `children`; the stream lasts `seconds`."""
        self.progress = Progress()
        self._broker = broker
        self._children = children
        self._view = view
        self._clock = clock
        self._seconds = seconds
        self._job: Job | None = None
        self._picture = Picture(stage=Stage.BROKER)
        #: Never set: what waits on it waits for its timeout.
        self._idle = threading.Event()

    def watch(self, job: Job) -> None:
        """Look after this job from now on."""
        self._job = job

    def until(
        self,
        happened: Callable[[], bool],
        failure: str,
        seconds: float,
        *,
        done: Callable[[], float] | None = None,
    ) -> None:
        """Look at the world until something happened (X1, X2).

        Args:
            happened: asked ten times a second.
            failure: what to say if it did not.
            seconds: how long to wait.
            done: share of it that is done, for the view.

        Raises:
            JobFailed: it did not happen in time.
            ChildFailed: a process was lost.
            BrokerError: Kafka or the job's topics are gone.
        """
        deadline = self._clock.monotonic_ns() + int(seconds * 1e9)
        while not happened():
            self._check()
            if self._clock.monotonic_ns() > deadline:
                raise JobFailed(f"{failure} within {seconds:.0f} s{self._state()}")
            self._look(done)
            self._idle.wait(_LOOK_S)
        self._look(done)

    def ended(self, child: Child) -> bool:
        """Whether a child has ended well.

        Raises:
            ChildFailed: it ended badly.
        """
        child.check()
        return child.ended

    def enter(self, stage: Stage, detail: str = "") -> None:
        """Begin a stage."""
        self._picture = replace(self._picture, stage=stage, detail=detail, done=None)
        self._view.show(self._picture, now=True)

    def tell(self, done: float, detail: str) -> None:
        """Say how far the stage is."""
        self._picture = replace(self._picture, done=done, detail=detail)
        self._view.show(self._picture)

    def elapsed(self) -> float:
        """Share of the stream's time that is over; 0 before it begins."""
        schedule = self.progress.generated.schedule
        if schedule is None:
            return 0.0
        return (self._clock.wall_us() - schedule[0]) / (self._seconds * _SECOND_US)

    def _check(self) -> None:
        if not self._broker.alive:
            raise BrokerError("the local Kafka ended by itself")
        self._children.check()
        if self._job is not None:
            self._job.check()

    def _look(self, done: Callable[[], float] | None) -> None:
        if self._job is None:
            return
        progress, view = self.progress, self._job.view
        detail = self._picture.detail
        if self._picture.stage is Stage.STREAM and progress.generated.schedule is not None:
            progress.take_lag(self._clock.wall_us(), view.lag)
            over = max(0.0, min(1.0, self.elapsed())) * self._seconds
            detail = f"{over:.1f} of {self._seconds:g} s"
        self._picture = replace(
            self._picture,
            detail=detail,
            done=None if done is None else max(0.0, min(1.0, done())),
            published=(progress.generated.total, progress.generated.per_second),
            processed=(view.processed, view.processed_per_second),
            lag=view.lag,
            latency=progress.measured.last_second(),
            seconds=progress.measured.seconds(self._moving(view)),
            bins=view.bins_by_worker,
            rows=view.state_rows,
            plan=_plan(progress.requests, view),
        )
        self._view.show(self._picture)

    def _moving(self, view: JobView) -> list[tuple[int, int]]:
        """Intervals in which bins moved or move, epoch µs."""
        now = self._clock.wall_us()
        out = []
        for request in self.progress.requests:
            status = view.requests.get(request.id)
            if status is not None and status.at is not None:
                end = status.at + status.duration_ms * 1000 if status.final else now
                out.append((status.at, end))
        return out

    def _state(self) -> str:
        """What the job says, for an error."""
        if self._job is None:
            return ""
        view = self._job.view
        members = ", ".join(f"{slot} {beat.state}" for slot, beat in sorted(view.beats.items()))
        return (
            f" (published {self.progress.generated.total:,}, read {view.read:,}, processed "
            f"{view.processed:,}, lag {view.lag:,}; {members or 'no process has spoken'})"
        )


def _plan(requests: Sequence[MoveRequest], view: JobView) -> PlanView | None:
    """The newest plan as the view shows it."""
    if not requests:
        return None
    request = requests[-1]
    status = view.requests.get(request.id)
    # While a plan is accepted, its status says what it will move; from then on, what has moved.
    moved = status if status is not None and status.state != "accepted" else None
    return PlanView(
        request.id,
        status.state if status is not None else "asked for",
        moved.waves if moved is not None else 0,
        request.waves,
        moved.bins if moved is not None else 0,
        len(request.targets),
    )
