"""The controller: waits for members, begins the generation, promises, plans, stops the job.

Flow: members, requests, reports and the clock -> [ControllerMachine] -> accepted log, statuses,
the manifest. Pure: events in, instructions out (controller_events); the shell owns Kafka, sockets
and the clock. The controller observes the dataflow and takes no part in it.

    WAITING --all members there--> RUNNING --stop, or input drained--> STOPPING --all cut--> ENDED
       |                              |                                   |                   ^
       `--stop, or a problem----------`--a problem------------------------`--a problem--------'

Invariants
  CT1  Every record appended satisfies LogFollower (HZ1-HZ4): the machine follows its own log.
  CT5  A wave is written as late as the promises allow: a stop never waits for waves that have a cut
       but are not due.
  CT6  The last manifest is written once, after every process has cut its part at the stop; those
       of checkpoints before it as CK2 of `checkpoints` says.
  CT7  Waves are written with the promise that is due, in one transaction: dozens of their own in a
       second would take the broker's time from rows just while state moves.
CT2 to CT4 are the desk's (plan_desk).
Not handled here: a second generation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from service.errors import MegaphoneError, PeerLost, ProtocolViolation, UsageError
from service.ids import Membership
from service.migration.checkpoint_desk import CheckpointDesk
from service.migration.checkpoints import Checkpoints
from service.migration.clear_cuts import ClearCuts
from service.migration.controller_events import (
    AppendToLog,
    ControllerSettings,
    Done,
    Event,
    Fail,
    Instruction,
    LogAppended,
    MemberSeen,
    PeerGone,
    Phase,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
    WaveCompleted,
    WriteManifest,
)
from service.migration.ending import Ending
from service.migration.founding import JobShape, found_generation, obstacle_of
from service.migration.horizon import HORIZON_END, LogFollower, Promiser
from service.migration.members import RollCall
from service.migration.plan_desk import Moment, PlanDesk
from service.migration.plan_run import PlanRun
from service.migration.records import (
    Generation,
    LogRecord,
    ManifestRecord,
    StatusRecord,
    Stop,
)
from service.migration.reports import (
    CheckpointedReport,
    CopiedReport,
    DrainedReport,
    LoadReport,
    MovedReport,
    read_report,
)
from service.migration.requests import Kind, Rejected, parse
from service.migration.routing_table import RoutingTable

#: Requests read before the generation begins that are kept for it.
EARLY_REQUESTS_MAX = 256


class ControllerMachine:
    """One job's controller. `handle` is the only way in; attributes are to be read."""

    def __init__(
        self,
        job: JobShape,
        settings: ControllerSettings,
        now_us: int,
        *,
        history: LogFollower | None = None,
        manifest: ManifestRecord | None = None,
        answered: Mapping[str, StatusRecord] | None = None,
    ) -> None:
        """Begin to wait for members.

        Args:
            job: what to run.
            settings: knobs.
            now_us: the controller's clock, not below the clocks in log and manifest.
            history: has applied the accepted log, or what of it follows the manifest.
            manifest: the newest one, if the job ran before.
            answered: newest status of each request of earlier runs.
        """
        self.job = job
        self.phase = Phase.WAITING
        #: The dataflow under way; None while waiting.
        self.generation: Generation | None = None
        #: Routing after every move accepted; None while waiting.
        self.table: RoutingTable | None = None
        self._settings = settings
        self._manifest = manifest
        self._obstacle = None if manifest is None else obstacle_of(job, manifest)
        self._membership = Membership(job.workers, job.gateways)
        self._roll = RollCall(
            self._membership, now_us, settings.members_wait_us, settings.silence_us
        )
        self._log = history if history is not None else LogFollower()
        self._promiser = Promiser(self._log)
        self._now = now_us
        #: Clock at which the next promise is to be made.
        self._promise_due = now_us
        self._desk = PlanDesk(job, settings.pacing, (answered or {}).values())
        #: Read before the generation began.
        self._early: list[RequestRead] = []
        #: Gateway peers that have read everything (until_end).
        self._drained: set[int] = set()
        self._ending = Ending()
        checkpoints = Checkpoints(settings.checkpoints, now_us, ClearCuts(job.delays))
        self._checkpoints = CheckpointDesk(checkpoints, self._say, self._append, self._tell)
        #: Records given to the shell and not yet durable, oldest first.
        self._unwritten: deque[LogRecord] = deque()
        self._out: list[Instruction] = []

    @property
    def missing(self) -> list[str]:
        """Slots that the job still waits for."""
        return self._roll.missing

    @property
    def plan(self) -> PlanRun | None:
        """The plan under way, if any (CT2)."""
        return self._desk.run

    def handle(self, event: Event) -> list[Instruction]:
        """Take in an event; returns what is to be done, in order. Nothing happens after the end.

        Raises:
            ProtocolViolation: a peer reports what it cannot have done.
        """
        if self.phase is Phase.ENDED:
            return []
        match event:
            case Tick():
                self._tick(event.now_us)
            case RequestRead():
                self._request_read(event)
            case MemberSeen():
                self._fail_if(self._roll.seen(event.record))
            case Report():
                self._report(event.peer, event.body)
            case PeerGone():
                self._fail(event.error, event.reason)
            case StopRequested():
                self._stop_requested()
            case LogAppended():
                self._appended(event.offset)
        out, self._out = self._out, []
        return out

    # Time and the log ---------------------------------------------------------------------------

    def _tick(self, now_us: int) -> None:
        assert now_us >= self._now, "the controller's clock does not go back"
        self._now = now_us
        if self._obstacle is not None:
            self._fail(self._obstacle.error, self._obstacle.reason)
            return
        self._fail_if(self._roll.passed(now_us))
        if self.phase is Phase.WAITING and not self._roll.missing:
            self._begin()
        if self.phase is Phase.RUNNING:
            promises = now_us >= self._promise_due
            if promises:
                self._issue_waves()
            self._checkpoints.tick(
                now_us,
                self._roll.slots,
                self._promiser.earliest_command,
                None if self.plan is None else self.plan.reserved_cut,
                lambda: [] if self.table is None else self.table.latest.tolist(),
            )
            if promises:
                self._promise()
        if self.phase is Phase.STOPPING:
            late = self._ending.late(self._roll.slots, now_us)
            if late is not None:
                self._fail(PeerLost, late)

    def _promise(self) -> None:
        settings = self._settings
        self._promise_due = self._now + settings.promise_every_us
        lookahead, below = settings.lookahead_us, HORIZON_END
        if self.plan is not None:
            if self.plan.reserved_cut is None:
                lookahead = settings.plan_lookahead_us
            else:
                below = self.plan.reserved_cut
        promise = self._promiser.promise(self._now, lookahead, below)
        self._write(promise)
        if self.table is not None:
            # The controller asks for the newest owners only.
            self.table.advance(promise.horizon)
            self.table.compact(promise.horizon)

    def _say(self, instruction: Instruction) -> None:
        self._out.append(instruction)

    def _append(self, record: LogRecord) -> None:
        self._write(self._promiser.append(record))

    def _write(self, record: LogRecord) -> None:
        self._unwritten.append(record)
        self._out.append(AppendToLog(record))

    def _appended(self, offset: int) -> None:
        if not self._unwritten:
            raise ProtocolViolation(f"offset {offset} acknowledged, but nothing was appended")
        record = self._unwritten.popleft()
        self._ending.appended(record, offset)
        self._checkpoints.appended(record, offset, self.generation, self._now)
        self._end_when_all_cut()

    def _begin(self) -> None:
        self.generation = found_generation(
            self.job,
            self._manifest,
            self._log,
            self._roll.begin(),
            now_us=self._now,
            lookahead_us=self._settings.lookahead_us,
        )
        self._append(self.generation)
        self.table = RoutingTable.of(self.generation)
        self.phase = Phase.RUNNING
        left = self._desk.book.abort_unfinished("the job ended before the plan was completed")
        self._publish(left)
        early, self._early = self._early, []
        for request in early:
            self._answer(request)

    # Requests -----------------------------------------------------------------------------------

    def _request_read(self, event: RequestRead) -> None:
        if self.phase is not Phase.WAITING:
            self._answer(event)
        elif len(self._early) < EARLY_REQUESTS_MAX:
            self._early.append(event)
        else:
            identity = parse(event.value, event.offset).id
            waiting = ", ".join(self._roll.missing)
            self._reject(Rejected(identity, f"the job still waits for {waiting}; try again later"))

    def _reject_early(self, reason: str) -> None:
        for event in self._early:
            self._reject(Rejected(parse(event.value, event.offset).id, reason))
        self._early.clear()

    def _answer(self, event: RequestRead) -> None:
        request = parse(event.value, event.offset)
        if isinstance(request, Rejected):
            self._reject(request)
            return
        taken = self._desk.book.get(request.id)
        if taken is not None:
            reason = f"id {request.id!r} is taken by an earlier request, which is {taken.state}"
            self._reject(Rejected(request.id, reason))
        elif self.phase is Phase.STOPPING:
            self._reject(Rejected(request.id, "the job is stopping"))
        elif request.kind is Kind.CHECKPOINT:
            rejected = self._checkpoints.ask(request.id, self._promiser.earliest_command)
            if rejected is not None:
                self._reject(rejected)
        else:
            self._publish(self._desk.answer(request, self._moment()))
            self._stop_when_drained()

    def _moment(self) -> Moment:
        assert self.table is not None, "requests are answered in a generation"
        earliest = self._promiser.earliest_command
        latest = self._now + self._settings.at_ahead_us_max
        return Moment(self.table.latest, earliest, latest, self._now)

    def _reject(self, rejected: Rejected) -> None:
        self._publish(self._desk.reject(rejected.id, rejected.reason))

    def _tell(self, *statuses: StatusRecord) -> None:
        """Publish statuses of accepted requests and remember them (CT3)."""
        self._publish([self._desk.book.note(status) for status in statuses])

    def _publish(self, statuses: list[StatusRecord]) -> None:
        self._out.extend(map(PublishStatus, statuses))

    # Plans --------------------------------------------------------------------------------------

    def _issue_waves(self) -> None:
        run, table = self.plan, self.table
        if table is None:
            return
        for record in self._desk.copies(table.latest, self._log.copies, self._now):
            self._append(record)
        if run is None:
            return
        latest = self._now + self._settings.plan_lookahead_us
        earliest = self._promiser.earliest_command
        while (wave := run.issue(earliest, latest, self._now)) is not None:
            move = run.record_of(wave, self._now)
            self._append(move)
            table.apply(move)
            earliest = self._promiser.earliest_command
            if wave.number == 1:
                self._publish(self._desk.began())

    def _moved(self, peer: int, report: MovedReport) -> None:
        run = self.plan
        if run is None or peer >= self.job.workers:
            raise ProtocolViolation(f"peer {peer} reports bins of cut {report.cut}; none moved")
        wave = run.report(peer, report, self._now)
        if wave is None:
            return
        duration = max(0, self._now - wave.cut)
        self._out.append(WaveCompleted(run.plan.id, wave, duration))
        self._publish(self._desk.went_on(self._moment()))
        self._stop_when_drained()

    # The end ------------------------------------------------------------------------------------

    def _report(self, peer: int, body: Mapping[str, object]) -> None:
        report = read_report(body)
        if self.generation is None or not 0 <= peer < self._membership.peers:
            raise ProtocolViolation(f"a report of peer {peer}, which is no member")
        match report:
            case MovedReport():
                self._moved(peer, report)
            case LoadReport():
                if peer >= self.job.workers:
                    raise ProtocolViolation(
                        f"peer {peer} tells loads of bins, which it has none of"
                    )
                self._desk.loads.take(report)
            case CopiedReport():
                if peer >= self.job.workers:
                    raise ProtocolViolation(f"peer {peer} is ready with copies of bins")
                self._desk.copied(peer, report)
            case DrainedReport():
                if peer < self.job.workers or not self.job.until_end:
                    raise ProtocolViolation(f"peer {peer} drained what it does not read")
                self._drained.add(peer)
                self._stop_when_drained()
            case CheckpointedReport():
                self._checkpointed(peer, report)

    def _stop_requested(self) -> None:
        if self.phase is Phase.WAITING:
            self._reject_early("the job was stopped before it began")
            self._out.append(Done())
            self.phase = Phase.ENDED
        elif self.phase is Phase.RUNNING:
            self._stop_job(drain=False)

    def _stop_when_drained(self) -> None:
        """--until-end: all input is read; a plan accepted before is carried out first."""
        drained = self.job.until_end and len(self._drained) == self.job.gateways
        if drained and self.phase is Phase.RUNNING and self.plan is None:
            self._stop_job(drain=True)

    def _stop_job(self, *, drain: bool) -> None:
        self._checkpoints.abort("the job was stopped, and writes one at its end", self._now)
        stop = Stop(at=self._promiser.earliest_command, drain=drain, clock=self._now)
        self._append(stop)
        self._ending.begin(stop, self._now + self._settings.stop_wait_us)
        self.phase = Phase.STOPPING
        self._publish(self._desk.stop(self._moment()))

    def _checkpointed(self, peer: int, report: CheckpointedReport) -> None:
        assert self.generation is not None, "who reports is a member"
        if self._checkpoints.report(peer, report, self.generation, self._now):
            return
        self._ending.report(peer, report)
        self._roll.excuse(self._roll.slots[peer])
        self._end_when_all_cut()

    def _end_when_all_cut(self) -> None:
        if self.generation is None or self.table is None:
            return
        owners, peers = self.table.latest.tolist(), self._membership.peers
        manifest = self._ending.manifest(self.generation, owners, peers, self._now)
        if manifest is None:
            return
        if self.plan is not None:
            raise ProtocolViolation("every process has cut its part, but bins are still on the way")
        self._out.append(WriteManifest(manifest))
        self._out.append(Done())
        self.phase = Phase.ENDED

    def _fail_if(self, problem: str | None) -> None:
        if problem is not None:
            waiting = self.phase is Phase.WAITING
            self._fail(UsageError if waiting else PeerLost, problem)

    def _fail(self, error: type[MegaphoneError], reason: str) -> None:
        self._publish(self._desk.fail(reason))
        self._checkpoints.abort(f"the job failed: {reason}", self._now)
        self._reject_early(f"the job did not begin: {reason}")
        self._out.append(Fail(error, reason))
        self.phase = Phase.ENDED
