"""The desk of plans: the one under way, those that queue, and what users are told of them.

Flow: Request -> [PlanDesk] -> statuses to publish; controller asks it for waves and hands it what
workers report. Pure: routing, times and the clock come as a `Moment`.

Invariants
  CT2  At most one plan is under way. A rejected request changes nothing but its own status.
  CT3  An id is taken once its request was accepted; whatever comes under it later is rejected
       (status_book says how, on a compacted topic). A dry run takes none.
  CT4  An accepted request ends completed or aborted, also when the job stops or fails.
  PD1  A plan that queued is made anew when its turn comes: what it was thought to move may have
       moved, or not have moved, meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.migration.estimate import estimate
from service.migration.founding import JobShape
from service.migration.loads import LoadBook
from service.migration.pacing import Pacing, TransferRate
from service.migration.plan import Plan, make_plan
from service.migration.plan_run import PlanPhase, PlanRun
from service.migration.precopy import PATIENCE_US, PreCopying
from service.migration.records import PreCopy, PreCopyEnd, RequestState, StatusRecord
from service.migration.reports import CopiedReport
from service.migration.requests import Kind, Rejected, Request
from service.migration.status_book import (
    StatusBook,
    accepted_of,
    done_of,
    estimate_of,
    progress_of,
    under_way,
)

#: Plans that may wait for others; a queue without end would hide that nothing gets done.
QUEUE_MAX = 16


@dataclass(frozen=True, slots=True)
class Moment:
    """What a plan is made against."""

    #: Worker ordinal of each bin after every move accepted.
    owners: NDArray[np.int32]
    #: Smallest and largest time of a first cut, µs.
    earliest: int
    latest: int
    #: The controller's clock, µs.
    now_us: int


class PlanDesk:
    """Plans of one job. Every method that changes something returns what is to be published."""

    def __init__(self, job: JobShape, pacing: Pacing, answered: Iterable[StatusRecord]) -> None:
        """Begin without plans; `answered` are the newest statuses of earlier runs."""
        self._job = job
        self._pacing = pacing
        self.book = StatusBook(answered)
        self.loads = LoadBook(job.bins)
        self.rate = TransferRate()
        #: The plan under way (CT2).
        self.run: PlanRun | None = None
        self._queue: deque[tuple[Request, Plan]] = deque()
        #: Copies announced and not called off.
        self._copying: PreCopying | None = None

    # Requests -----------------------------------------------------------------------------------

    def answer(self, request: Request, moment: Moment) -> list[StatusRecord]:
        """Take on a request whose id is free, or reject it."""
        if request.kind in (Kind.PAUSE, Kind.RESUME, Kind.ABORT):
            return self._steer(request, moment)
        if self._job.vertices == 0:
            return self.reject(request.id, "the flow has no keyed state that could move")
        run = self.run
        if request.dry_run and not self.loads.is_complete:
            return self.reject(request.id, "workers have not told their loads yet; try again soon")
        if run is not None and not request.dry_run:
            if not request.queue:
                return self.reject(
                    request.id,
                    f"plan {run.plan.id!r} is under way, {run.waves_completed} of "
                    f"{len(run.plan.waves)} waves completed; send the request again after it, or "
                    "with queue: true",
                )
            if len(self._queue) >= QUEUE_MAX:
                return self.reject(
                    request.id, f"{QUEUE_MAX} plans wait already; send the request again later"
                )
        plan = self._plan(request, replace(moment, owners=self._expected(moment.owners)))
        if isinstance(plan, Rejected):
            return self.reject(plan.id, plan.reason)
        if request.dry_run:
            guess = estimate(plan, self.loads.sizes, self.rate, self._pacing)
            return [estimate_of(plan, guess)]
        if plan.waves and run is not None:
            self._queue.append((request, plan))
        elif plan.waves:
            self._begin(plan)
        return self._noted(accepted_of(plan))

    def reject(self, identity: str, reason: str) -> list[StatusRecord]:
        """Reject a request."""
        return self.book.reject(Rejected(identity, reason))

    def _plan(self, request: Request, moment: Moment) -> Plan | Rejected:
        return make_plan(
            request,
            moment.owners,
            self._job.workers,
            earliest=moment.earliest,
            latest=moment.latest,
            loads=self.loads,
        )

    def _expected(self, owners: NDArray[np.int32]) -> NDArray[np.int32]:
        """Owners after everything that is under way or queues, if none of it is cut off."""
        expected = owners.copy()
        plans = [] if self.run is None else [self.run.plan]
        plans += [plan for _, plan in self._queue]
        for plan in plans:
            for bin_, worker in plan.moved:
                expected[bin_] = worker
        return expected

    def _begin(self, plan: Plan) -> None:
        self.run = PlanRun(plan, self._job.vertices, self._pacing, self.rate)

    # Pause, resume, abort -----------------------------------------------------------------------

    def _steer(self, request: Request, moment: Moment) -> list[StatusRecord]:
        queued = next((entry for entry in self._queue if entry[1].id == request.plan), None)
        if queued is not None:
            return self._take_out(request, queued, moment)
        run = self.run
        if run is None:
            return self.reject(request.id, "no plan is under way")
        if request.plan not in (None, run.plan.id):
            return self.reject(
                request.id,
                f"plan {request.plan!r} is not under way; that one is {run.plan.id!r}",
            )
        refusal = _cannot_steer(run, request.kind)
        if refusal is not None:
            return self.reject(request.id, f"plan {run.plan.id!r} {refusal}")
        done = self._noted(done_of(request.id, moment.now_us))
        match request.kind:
            case Kind.PAUSE:
                run.pause()
            case Kind.RESUME:
                run.resume()
            case _:
                run.cut_off(f"request {request.id!r} aborted it")
                return done + self.end_if_over(moment)
        return done + self._noted([under_way(run)])

    def _take_out(
        self, request: Request, queued: tuple[Request, Plan], moment: Moment
    ) -> list[StatusRecord]:
        plan = queued[1]
        if request.kind is not Kind.ABORT:
            return self.reject(
                request.id, f"plan {plan.id!r} has not begun; abort it, or {request.kind} another"
            )
        self._queue.remove(queued)
        reason = f"request {request.id!r} aborted it before it began"
        return self._noted([*done_of(request.id, moment.now_us), _unbegun(plan, reason)])

    # Progress -----------------------------------------------------------------------------------

    def began(self) -> list[StatusRecord]:
        """The first wave has its cut."""
        assert self.run is not None, "a plan begins"
        return self._noted([under_way(self.run)])

    def went_on(self, moment: Moment) -> list[StatusRecord]:
        """A wave is complete."""
        assert self.run is not None, "a wave belongs to a plan"
        over = self.end_if_over(moment)
        return over or self._noted([under_way(self.run)])

    def copies(
        self, owners: NDArray[np.int32], last: int, now_us: int
    ) -> list[PreCopy | PreCopyEnd]:
        """Records of copies that begin now, or that nothing will come of (see `PreCopying.due`)."""
        run = self.run
        current = None if run is None or run.phase is PlanPhase.ENDING else run.copying
        records: list[PreCopy | PreCopyEnd] = []
        old = self._copying
        if old is not None and old is not current and old.is_open:
            records.append(PreCopyEnd(clock=now_us))
        self._copying = current
        if current is None or run is None:
            return records
        # Also while nothing of it is due: old owners may still tell of a plan that was aborted.
        current.follows(last)
        if run.phase is PlanPhase.PAUSED:
            return records
        if run.reserved_cut is None or run.reserved_cut <= now_us + PATIENCE_US:
            records += current.due(run.waves_issued, owners, last, now_us)
        return records

    def copied(self, worker: int, report: CopiedReport) -> None:
        """Note that a worker's copies of one number are ready; of a plan that is over: nothing."""
        if self._copying is not None:
            self._copying.report(worker, report.vertex, report.number)

    def end_if_over(self, moment: Moment) -> list[StatusRecord]:
        """End the plan under way if nothing of it is left, and begin the next that queues."""
        run = self.run
        if run is None or not run.is_over:
            return []
        self.run = None
        if run.is_whole:
            last = progress_of(run, RequestState.COMPLETED)
        else:
            done = f"{run.waves_completed} of {len(run.plan.waves)} waves"
            last = progress_of(run, RequestState.ABORTED, f"{run.cut_off_by} after {done}")
        return self._noted([last]) + self._next(moment)

    def _next(self, moment: Moment) -> list[StatusRecord]:
        """Begin the next plan that still has something to move (PD1)."""
        statuses: list[StatusRecord] = []
        while self._queue and self.run is None:
            request, thought = self._queue.popleft()
            if request.at is not None and request.at < moment.earliest:
                request = replace(request, at=None)
            plan = self._plan(request, moment)
            if isinstance(plan, Rejected):
                statuses.append(_unbegun(thought, plan.reason))
            elif plan.waves:
                self._begin(plan)
                statuses.append(accepted_of(plan)[0])
            else:
                statuses.append(accepted_of(plan)[-1])
        return self._noted(statuses)

    # The end ------------------------------------------------------------------------------------

    def stop(self, moment: Moment) -> list[StatusRecord]:
        """The job stops: waves issued go on, nothing else does (CT4)."""
        statuses = self._empty_queue("the job was stopped before it began")
        if self.run is not None:
            self.run.cut_off("the job was stopped")
        return statuses + self.end_if_over(moment)

    def fail(self, reason: str) -> list[StatusRecord]:
        """The job fails: nothing goes on (CT4)."""
        statuses = self._empty_queue(f"the job failed: {reason}")
        if self.run is not None:
            failed = progress_of(self.run, RequestState.ABORTED, f"the job failed: {reason}")
            statuses += self._noted([failed])
            self.run = None
        return statuses

    def _empty_queue(self, reason: str) -> list[StatusRecord]:
        plans = [plan for _, plan in self._queue]
        self._queue.clear()
        return self._noted([_unbegun(plan, reason) for plan in plans])

    def _noted(self, statuses: list[StatusRecord]) -> list[StatusRecord]:
        """Remember statuses of accepted requests (CT3)."""
        return [self.book.note(status) for status in statuses]


def _cannot_steer(run: PlanRun, kind: Kind) -> str | None:
    """Why a plan cannot do what is asked now, to follow its name."""
    if run.phase is PlanPhase.ENDING:
        return "is ending already; it is over when the waves under way are"
    if run.is_whole:
        return "has given every wave its cut; it is over when they are complete"
    if kind is Kind.PAUSE and run.phase is PlanPhase.PAUSED:
        return "is paused already"
    if kind is Kind.RESUME and run.phase is not PlanPhase.PAUSED:
        return "is not paused"
    return None


def _unbegun(plan: Plan, reason: str) -> StatusRecord:
    """The last status of a plan that never began."""
    return StatusRecord(id=plan.id, state=RequestState.ABORTED, reason=reason, at=plan.first_cut)
