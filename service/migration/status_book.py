"""What users were told: the newest status of each accepted request, and which ids are taken.

Flow: controller -> [StatusBook] -> status records to publish, in order. Pure.

Invariants
  SB1  An id is taken from the acceptance of its request on; a rejected request takes none, so that
       it can be sent again under its id.
  SB2  After a rejection under a taken id the status of the accepted request is published again:
       the topic is compacted, and its last word on an id must be about the request that took it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from service.migration.estimate import Estimate
from service.migration.plan import Plan
from service.migration.plan_run import PlanPhase, PlanRun
from service.migration.records import RequestState, StatusRecord
from service.migration.requests import Rejected

#: Ids that are remembered; the oldest is forgotten first, about 30 MB when full.
IDS_MAX = 65_536

_UNFINISHED = (RequestState.ACCEPTED, RequestState.RUNNING, RequestState.PAUSED)


class StatusBook:
    """The statuses of one job's requests."""

    def __init__(self, answered: Iterable[StatusRecord] = ()) -> None:
        """Begin with the newest statuses of earlier runs."""
        #: {id: newest status}, oldest acceptance first.
        self._taken: OrderedDict[str, StatusRecord] = OrderedDict()
        for status in answered:
            if status.state is not RequestState.REJECTED:
                self._taken[status.id] = status

    def get(self, identity: str) -> StatusRecord | None:
        """Newest status of the request that took this id, if any did."""
        return self._taken.get(identity)

    def note(self, status: StatusRecord) -> StatusRecord:
        """Remember the status of an accepted request (SB1) and return it."""
        self._taken[status.id] = status
        if len(self._taken) > IDS_MAX:
            self._taken.popitem(last=False)
        return status

    def reject(self, rejected: Rejected) -> list[StatusRecord]:
        """What to publish about a rejection (SB2)."""
        status = StatusRecord(id=rejected.id, state=RequestState.REJECTED, reason=rejected.reason)
        taken = self._taken.get(rejected.id)
        return [status] if taken is None else [status, taken]

    def abort_unfinished(self, reason: str) -> list[StatusRecord]:
        """Abort what an earlier run left accepted or running; returns what to publish."""
        unfinished = [status for status in self._taken.values() if status.state in _UNFINISHED]
        return [self.note(_changed(status, RequestState.ABORTED, reason)) for status in unfinished]


def _changed(status: StatusRecord, state: RequestState, reason: str | None = None) -> StatusRecord:
    return msgspec.structs.replace(status, state=state, reason=reason)


def accepted_of(plan: Plan) -> list[StatusRecord]:
    """The statuses of a plan just accepted: what it will move; without waves it is complete."""
    accepted = StatusRecord(
        id=plan.id,
        state=RequestState.ACCEPTED,
        at=plan.first_cut,
        bins=plan.bins,
        waves=len(plan.waves),
    )
    return [accepted] if plan.waves else [accepted, _changed(accepted, RequestState.COMPLETED)]


def done_of(identity: str, at: int) -> list[StatusRecord]:
    """The statuses of a request that was carried out on the spot and moves nothing itself."""
    accepted = StatusRecord(id=identity, state=RequestState.ACCEPTED, at=at)
    return [accepted, _changed(accepted, RequestState.COMPLETED)]


def estimate_of(plan: Plan, estimate: Estimate) -> StatusRecord:
    """The one status of a dry run; it takes no id."""
    return StatusRecord(
        id=plan.id,
        state=RequestState.COMPLETED,
        at=plan.first_cut,
        bins=plan.bins,
        bytes=estimate.bytes,
        waves=len(plan.waves),
        duration_ms=-(-estimate.duration_us // 1000),
        longest_wait_ms=-(-estimate.longest_wait_us // 1000),
        dry_run=True,
    )


def under_way(run: PlanRun) -> StatusRecord:
    """The status of a plan that goes on: running, or paused."""
    paused = run.phase is PlanPhase.PAUSED
    return progress_of(run, RequestState.PAUSED if paused else RequestState.RUNNING)


def progress_of(run: PlanRun, state: RequestState, reason: str | None = None) -> StatusRecord:
    """The status of a plan under way: what has moved so far."""
    return StatusRecord(
        id=run.plan.id,
        state=state,
        reason=reason,
        at=run.first_cut,
        bins=run.bins_moved,
        bytes=run.bytes_moved,
        waves=run.waves_completed,
        duration_ms=-(-run.duration_us // 1000),
        longest_wait_ms=-(-run.wait_us // 1000) if run.wait_us else msgspec.UNSET,
    )
