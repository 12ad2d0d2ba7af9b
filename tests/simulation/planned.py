"""A world whose moves come from a real controller: requests of every kind, at any moment.

The controller's turn is the machine's own: it gets the clock, requests that the seed makes up, and
what members report; what it appends is the log. So waves are spaced and issued as in a job, and
pauses, aborts, queues and the stop fall between waves, before them and behind them.

Checked beside what `World` checks
  WO9   Each request that was accepted ends completed or aborted, and a plan that completed has
        brought its bins where it should.
  WO10  Every wave in the log belongs to an accepted plan, in order, and says what was moved.
What it cannot catch: the controller's own shell; see tests/simulation/world.py for the rest.
"""

from __future__ import annotations

import json
from collections import deque

from service.dataflow.flow_shape import stateful_of
from service.ids import Membership
from service.migration.controller import ControllerMachine
from service.migration.controller_events import (
    AppendToLog,
    ControllerSettings,
    Event,
    LogAppended,
    MemberSeen,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
)
from service.migration.founding import JobShape
from service.migration.handover import CopyReport, CutReport
from service.migration.pacing import Pacing
from service.migration.records import (
    MAX_EPOCH,
    Checkpoint,
    Generation,
    MemberRecord,
    MemberState,
    Move,
    RequestState,
    StatusRecord,
    Stop,
)
from service.migration.reports import CopiedReport, MovedReport, PeerReport, plain
from service.telling import Teller
from tests.simulation.world import BEHIND_MAX, FIRST_EPOCH, Shape, World

FINAL = {RequestState.COMPLETED, RequestState.ABORTED}
#: Times are a thousandth of a job's.
SETTINGS = ControllerSettings(
    lookahead_us=1_000,
    plan_lookahead_us=400,
    promise_every_us=100,
    silence_us=MAX_EPOCH,
    stop_wait_us=MAX_EPOCH,
    at_ahead_us_max=10_000,
    pacing=Pacing(spacing_us=60, spacing_us_min=5, spacing_us_max=500, waves_late_max=6),
)
STRATEGIES = ("all-at-once", "fluid", "batched", "optimized")


class PlannedWorld(World):
    """A world with a controller; `shape.waves` is how many waves it moves at least."""

    #: Plans that are paused and resumed take turns of their own: seed 21003 needs 43,234.
    patience = 3

    def __init__(self, seed: int, shape: Shape) -> None:
        """Build all members; nothing has happened yet."""
        self.statuses: list[StatusRecord] = []
        self.written: list[object] = []
        #: Requests of another kind than a plan.
        self.no_plans: set[str] = set()
        self._reports: deque[tuple[int, PeerReport]] = deque()
        self._requests = 0
        super().__init__(seed, shape)
        self._tellers = [Teller() for _ in range(self.slots.peers)]
        self.waves.clear()

    def _generation(self) -> Generation:
        shape = self.shape
        job = JobShape(
            bins=shape.bins,
            workers=shape.workers,
            gateways=shape.gateways,
            vertices=stateful_of(shape.flow.build().vertices),
            sink_groups=shape.workers,
            start={"events": [0] * shape.gateways},
            until_end=False,
        )
        self.machine = ControllerMachine(job, SETTINGS, FIRST_EPOCH)
        members = Membership(shape.workers, shape.gateways)
        for peer in range(members.peers):
            slot = members.slot(peer)
            self._tell(
                MemberSeen(
                    MemberRecord(
                        slot=str(slot),
                        role=str(slot.role),
                        incarnation="i",
                        address="a",
                        state=MemberState.WAITING,
                        heartbeat=0,
                    )
                )
            )
        self._tell(Tick(FIRST_EPOCH))
        generation = self.machine.generation
        assert generation is not None
        self.owners = list(generation.bin_owners)
        return generation

    def _tell(self, event: Event) -> None:
        """Hand the machine an event and carry out what it says."""
        queue = deque([event])
        while queue:
            for instruction in self.machine.handle(queue.popleft()):
                if isinstance(instruction, AppendToLog):
                    self.written.append(instruction.record)
                    queue.append(LogAppended(len(self.written)))
                elif isinstance(instruction, PublishStatus):
                    self.statuses.append(instruction.record)

    def _publish_log(self) -> None:
        """Let members read what was written since."""
        written, self.written = self.written, []
        for record in written:
            if isinstance(record, Generation):
                continue
            self.log.append(record)
            if isinstance(record, Move):
                self.waves.append(record)
                for moved, worker in record.moves:
                    self.owners[moved] = worker
            elif isinstance(record, Stop):
                self.stop = record
            elif isinstance(record, Checkpoint):
                self._was_cut(record.at)

    def _was_cut(self, cut: int) -> None:
        """Members have a checkpoint to read of; only worlds that ask for one are told."""

    def _told(self, peer: int, reports: list[CutReport], copies: list[CopyReport]) -> None:
        for copy in copies:
            ready = CopiedReport(vertex=copy.vertex, number=copy.number, left=copy.left)
            self._reports.append((peer, ready))
        for report in reports:
            moved = MovedReport(
                vertex=report.vertex,
                cut=report.cut,
                bins=report.bins,
                bytes=report.bytes,
                rows=report.rows,
            )
            self._reports.append((peer, moved))

    def _control(self) -> bool:
        """The controller's turn: reports, a request, promises and waves, in the end the stop."""
        draw = self.random
        self._hear(draw.randrange(4))
        if self.stop is not None or len(self.log) - min(self.read) > BEHIND_MAX:
            return bool(self._reports)
        self.clock += draw.randrange(120)
        if draw.random() < 0.15:
            self._tell_loads()
        if draw.random() < 0.3 and len(self.waves) < self.shape.waves:
            self._request()
        enough = sum(self.rows_stamped) >= self.shape.rows
        if enough and len(self.waves) >= self.shape.waves:
            # Half of the time in the middle of what is under way, paused or not.
            if self.machine.plan is None or draw.random() < 0.2:
                self._tell(StopRequested())
            else:
                self._ask({"kind": "resume"})
        self._tell(Tick(self.clock))
        self._publish_log()
        return True

    def _hear(self, most: int) -> None:
        for _ in range(min(most, len(self._reports))):
            peer, report = self._reports.popleft()
            self._tell(Report(peer, plain(report)))

    def _tell_loads(self) -> None:
        worker = self.random.randrange(self.shape.workers)
        now_us = self.clock + 10_000_000 * len(self.log)
        for report in self._tellers[worker].loads(self.members[worker], now_us):
            self._tell(Report(worker, plain(report)))

    def _request(self) -> None:
        """Ask for anything at all; what cannot be is rejected and changes nothing."""
        draw, shape = self.random, self.shape
        kind = draw.choice(
            ("move", "move", "waves", "rescale", "rebalance", "pause", "resume", "resume", "abort")
        )
        body: dict[str, object] = {"kind": kind}
        if kind in ("move", "rescale", "rebalance"):
            body |= {"strategy": draw.choice(STRATEGIES), "batch": draw.randrange(1, 4)}
        if kind == "move":
            body["moves"] = self._moves()
        elif kind == "waves":
            body |= {"kind": "move", "waves": [self._moves() for _ in range(draw.randrange(1, 5))]}
            if draw.random() < 0.3:
                waves = body["waves"]
                body["after_us"] = [300 * place for place, _ in enumerate(waves)]  # type: ignore[arg-type]  # a list
        elif kind == "rescale":
            body["workers"] = draw.randrange(1, shape.workers + 1)
        elif kind == "rebalance":
            body |= {"threshold": 0.05, "by": draw.choice(("updates", "rows", "bytes"))}
        if kind in ("pause", "resume", "abort"):
            if draw.random() < 0.5:
                # One of the newest: it may run, queue, or be over.
                body["plan"] = str(draw.randrange(max(1, self._requests - 6), self._requests + 2))
        else:
            body["queue"] = draw.random() < 0.5
            if shape.copies:
                body["precopy"] = draw.random() < 0.7
            if draw.random() < 0.2:
                body["at"] = self.clock + draw.randrange(3_000)
        self._ask(body)

    def _moves(self) -> list[list[int]]:
        draw, shape = self.random, self.shape
        bins = draw.sample(range(shape.bins), draw.randrange(1, shape.bins + 1))
        return [[bin_, draw.randrange(shape.workers)] for bin_ in bins]

    def _ask(self, body: dict[str, object]) -> None:
        self._requests += 1
        value = json.dumps({"id": str(self._requests)} | body).encode()
        self._tell(RequestRead(self._requests, value))

    # Checks -------------------------------------------------------------------------------------

    def check(self) -> int:
        """WO1 to WO10 after `run`."""
        with self._named():
            self._hear(len(self._reports))
            self.check_requests()
        return super().check()

    def check_requests(self) -> None:
        """WO9 and WO10."""
        assert self.machine.plan is None, "WO9: a plan goes on"
        newest = {status.id: status for status in self.statuses}
        accepted = {s.id for s in self.statuses if s.state is RequestState.ACCEPTED}
        accepted -= self.no_plans
        of_plan: dict[str, list[Move]] = {identity: [] for identity in accepted}
        for wave in self.waves:
            of_plan[wave.request].append(wave)
        for identity, waves in of_plan.items():
            status = newest[identity]
            assert status.state in FINAL, f"WO9: {status}"
            assert [wave.wave for wave in waves] == list(range(1, len(waves) + 1)), "WO10"
            assert status.waves == len(waves), "WO10"
            assert status.bins == sum(len(wave.moves) for wave in waves), "WO10"
            if status.state is RequestState.COMPLETED and waves:
                assert waves[-1].waves == len(waves), "WO9: a plan completed without all its waves"
        assert self.machine.table is not None
        assert self.machine.table.latest.tolist() == self.owners, "WO9: owners"
