"""The process that directs a word-count run: controller, accepted log, plan, and the watch on RSS.

Flow: [direct] spawns the workers -> ControllerMachine founds the generation -> each record of the
log goes to every worker -> load -> run, steps of the plan as requests -> stop -> results.

The controller is the service's own machine with its own settings. What a broker is for a job is
here a list in this process: an appended record is durable at once and sent to all in one order.

Invariants
  WD1  Every worker is given every record of the log, in the order appended.
  WD2  A step is requested when it is due and the one before has completed.
  WD3  Memory and processor time are read from outside the workers, at a fixed beat, so that no
       long operation of theirs hides what it takes. The most that each takes is the system's own
       mark, which counts from the moment all are loaded to the end of the run, before its proof.
  WD4  A run counts only if its results are exact: as many records were counted as were sent, under
       the keys they were sent for.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import TypeAlias, TypeVar, cast

import psutil

from service.bench.resident import forget_peak, peak, resident
from service.bench.stall import StallProbe
from service.bench.words.messages import (
    Answer,
    Begin,
    Load,
    Loaded,
    LogLine,
    Order,
    Ran,
    Ready,
    Result,
    Told,
)
from service.bench.words.migrating import Step, moving_bins, shape_of, steps_of
from service.bench.words.options import WordOptions
from service.bench.words.outcome import PlanNote, WaveNote, WordRun, merged
from service.bench.words.validation import validate
from service.bench.words.worker import work
from service.clock import SystemClock
from service.config import Config, load_config
from service.errors import MegaphoneError, UsageError
from service.ids import Membership
from service.migration.controller import ControllerMachine
from service.migration.controller_events import (
    AppendToLog,
    ControllerSettings,
    Done,
    Event,
    Fail,
    LogAppended,
    MemberSeen,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
    WaveCompleted,
    WriteManifest,
)
from service.migration.horizon import ControllerClock
from service.migration.records import (
    MAX_EPOCH,
    LogRecord,
    MemberRecord,
    MemberState,
    Move,
    RequestState,
    StatusRecord,
    encode,
)

_Pipe: TypeAlias = "Connection[Order | list[str], Answer | str]"
_Kind = TypeVar("_Kind")
_US = 1_000
_TURN_S = 0.004
#: Reading resident sizes takes some 20 us, and no lock of the worker's.
_RSS_EVERY_NS = 20_000_000
_CPU_EVERY_NS = 250_000_000
#: From the order to begin to the beginning: every worker has heard of it by then.
_LEAD_NS = 200_000_000
#: A worker that says nothing for so long, beside the time it was given, is taken for dead.
_SILENCE_S = 300.0


def direct(options: WordOptions) -> WordRun:
    """Make one run.

    Raises:
        UsageError: the plan names what there is not.
        MegaphoneError: a worker failed, or the results are not exact (WD4).

    Cost: two or three seconds to start, the load, and the run's duration.
    """
    steps = steps_of(options)
    moving = moving_bins(options, steps)
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes: list[_Pipe] = []
        pids: list[int] = []
        for peer in range(options.workers):
            ours, theirs = spawn.Pipe()
            child = spawn.Process(target=work, args=(theirs, peer, options, moving))
            child.start()
            stack.callback(_end, child)
            theirs.close()
            stack.callback(ours.close)
            pipes.append(cast(_Pipe, ours))
            pids.append(cast(int, child.pid))
        probe = stack.enter_context(StallProbe())
        director = Director(options, steps, pipes, pids, load_config())
        results = director.run()
    run = director.outcome(results, probe.stall_ms)
    for problem in validate(options, results):
        raise MegaphoneError(f"the counts are not exact: {problem}")
    return run


class Director:
    """Holds the log, the controller and the pipes of one run."""

    def __init__(
        self,
        options: WordOptions,
        steps: list[Step],
        pipes: list[_Pipe],
        pids: list[int],
        config: Config,
    ) -> None:
        """Take over workers that have just been started."""
        self._options = options
        self._steps = deque(steps)
        self._pipes = pipes
        #: Of workers that have not given their result.
        self._open = list(pipes)
        self._pids = pids
        self._clock = SystemClock()
        self._controller_clock = ControllerClock(
            wall_us=self._clock.wall_us(),
            promised_us=0,
            monotonic_us=self._clock.monotonic_ns() // _US,
        )
        control = config.control
        settings = ControllerSettings(
            lookahead_us=int(control.lookahead_ms * 1000),
            plan_lookahead_us=int(control.plan_lookahead_ms * 1000),
            promise_every_us=int(control.promise_every_ms * 1000),
            # Nobody heartbeats here: a worker that dies closes its pipe.
            silence_us=MAX_EPOCH,
            stop_wait_us=MAX_EPOCH,
        )
        self._machine = ControllerMachine(shape_of(options), settings, self._now_us())
        self._appended = 0
        self._requests = 0
        self._status: dict[str, StatusRecord] = {}
        self._answers: list[deque[Answer]] = [deque() for _ in pipes]
        self._plans: list[PlanNote] = []
        self._waves: dict[int, WaveNote] = {}
        self._rss: list[tuple[int, tuple[int, ...]]] = []
        self._peaks: tuple[int, ...] = ()
        self._cpu: list[tuple[int, float]] = []
        self._next_rss = self._next_cpu = 0
        self._start_ns = 0
        self._began_ns = self._clock.monotonic_ns()
        self._bare: list[float] = []
        self._rounds: list[int] = []

    def run(self) -> list[Result]:
        """Everything from the endpoints to the results.

        Raises:
            UsageError: a request of the plan was refused.
            MegaphoneError: a worker ended or fell silent.
        """
        endpoints = [str(self._receive(pipe)) for pipe in self._pipes]
        for pipe in self._pipes:
            pipe.send(endpoints)
        self._found(endpoints)
        self._bare = [ready.bare for ready in self._await(Ready)]
        while self._steps and self._steps[0].at_ns is None:
            self._request(self._steps.popleft())
            self._until_settled()
        self._order(Load())
        self._rounds = [loaded.rounds for loaded in self._await(Loaded)]
        forgotten = [forget_peak(pid) for pid in self._pids]
        self._start_ns = self._clock.monotonic_ns() + _LEAD_NS
        self._order(Begin(self._start_ns))
        self._await(Ran, self._options.duration_s)
        # What is due and was put off by a slow step before it is still done.
        while self._steps or not self._is_settled:
            self._turn()
        if all(forgotten):
            self._peaks = tuple(map(peak, self._pids))
        self._handle(StopRequested())
        return self._await(Result)

    def outcome(self, results: list[Result], stall_ms: float) -> WordRun:
        """What the run was."""
        return WordRun(
            options=self._options,
            stall_ms=stall_ms,
            frontier=merged([result.frontier for result in results]),
            stayed=merged([result.stayed for result in results]),
            moved=merged([result.moved for result in results]),
            records=[result.records for result in results],
            progress=[result.progress for result in results],
            rss=self._rss,
            peaks=self._peaks,
            cpu=self._cpu,
            began_ns=self._began_ns,
            start_ns=self._start_ns,
            bare=self._bare,
            rounds=self._rounds,
            plans=self._plans,
            waves=[self._waves[cut] for cut in sorted(self._waves)],
            left=sorted(each for result in results for each in result.left),
            owners=self._owners_before,
            rows=sum(result.rows for result in results),
        )

    # The log and the controller -----------------------------------------------------------------

    def _found(self, endpoints: list[str]) -> None:
        """Begin the generation: everybody is there."""
        members = Membership(self._options.workers, 0)
        for peer, endpoint in enumerate(endpoints):
            slot = members.slot(peer)
            record = MemberRecord(
                slot=str(slot),
                role=str(slot.role),
                incarnation=str(peer + 1),
                address=endpoint,
                state=MemberState.WAITING,
                heartbeat=0,
            )
            self._handle(MemberSeen(record))
        self._handle(Tick(self._now_us()))
        assert self._machine.table is not None, "the generation begins when all are there"
        self._owners_before = self._machine.table.latest

    def _handle(self, event: Event) -> None:
        """Give the machine an event and carry out what it says, in order."""
        queue: deque[Event] = deque([event])
        while queue:
            for instruction in self._machine.handle(queue.popleft()):
                match instruction:
                    case AppendToLog(record=record):
                        queue.append(LogAppended(self._append(record)))
                    case PublishStatus(record=status):
                        self._published(status)
                    case WaveCompleted(wave=wave):
                        note = self._waves[wave.cut]
                        note.done_ns = self._clock.monotonic_ns()
                        note.bytes, note.rows = wave.bytes, wave.rows
                    case Fail(error=error, reason=reason):
                        raise error(reason)
                    case WriteManifest() | Done():
                        raise AssertionError("no worker of a benchmark reports a checkpoint")

    def _append(self, record: LogRecord) -> int:
        """WD1: durable at once, and on its way to everybody."""
        if isinstance(record, Move):
            now = self._clock.monotonic_ns()
            cut_ns = now + (record.at - self._now_us()) * _US
            self._waves[record.at] = WaveNote(record.at, now, cut_ns, len(record.moves))
        line = LogLine(encode(record), self._clock.monotonic_ns() // _US)
        for pipe in self._pipes:
            pipe.send(line)
        self._appended += 1
        return self._appended - 1

    def _request(self, step: Step) -> None:
        """Ask for a step of the plan (WD2)."""
        offset = self._requests
        self._requests += 1
        self._plans.append(PlanNote(offset, step.at_ns, self._clock.monotonic_ns()))
        self._handle(RequestRead(offset, step.request(offset, self._options)))

    def _published(self, status: StatusRecord) -> None:
        self._status[status.id] = status
        if status.state in (RequestState.REJECTED, RequestState.ABORTED):
            raise UsageError(f"--migration {self._options.migration}: {status.reason}")
        if status.state is RequestState.COMPLETED:
            self._plans[-1].done_ns = self._clock.monotonic_ns()

    @property
    def _is_settled(self) -> bool:
        """Whether no request is under way."""
        return all(status.state is RequestState.COMPLETED for status in self._status.values())

    def _until_settled(self) -> None:
        while not self._is_settled:
            self._turn()

    # Turns --------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """What is due: promises, waves, steps, memory; then what workers say."""
        now = self._clock.monotonic_ns()
        if now >= self._next_rss:
            self._next_rss = now + _RSS_EVERY_NS
            self._rss.append((now, tuple(map(resident, self._pids))))
        if now >= self._next_cpu:
            self._next_cpu = now + _CPU_EVERY_NS
            self._cpu.append((now, sum(map(_cpu_s, self._pids))))
        if self._steps and self._start_ns and self._is_settled:
            at = self._steps[0].at_ns
            if at is None or now >= self._start_ns + at:
                self._request(self._steps.popleft())
        self._handle(Tick(self._now_us()))
        for ready in wait(self._open, _TURN_S):
            peer = self._pipes.index(cast(_Pipe, ready))
            answer = self._receive(self._pipes[peer])
            if isinstance(answer, Told):
                self._handle(Report(peer, answer.body))
                # What it completes may let the next wave go, and that one is due now.
                self._handle(Tick(self._now_us()))
            else:
                assert not isinstance(answer, str), "endpoints come first"
                self._answers[peer].append(answer)
                if isinstance(answer, Result):
                    # It ends now; what its pipe says from here on is that.
                    self._open.remove(self._pipes[peer])

    def _await(self, kind: type[_Kind], beside_s: float = 0.0) -> list[_Kind]:
        """The next answer of every worker, which is of this kind.

        Raises:
            MegaphoneError: somebody did not answer in time.
        """
        deadline = self._clock.monotonic_ns() + int((_SILENCE_S + beside_s) * 1e9)
        while not all(self._answers):
            self._turn()
            if self._clock.monotonic_ns() > deadline:
                raise MegaphoneError(
                    f"a worker of the benchmark gave no {kind.__name__} in time; "
                    "is the machine busy? run it again"
                )
        answers = [answers.popleft() for answers in self._answers]
        assert all(isinstance(answer, kind) for answer in answers), "workers keep to the order"
        return cast(list[_Kind], answers)

    def _order(self, order: Order) -> None:
        for pipe in self._pipes:
            pipe.send(order)

    def _receive(self, pipe: _Pipe) -> Answer | str:
        """What a worker says next; blocks.

        Raises:
            MegaphoneError: it ended.
        """
        try:
            return pipe.recv()
        except (EOFError, OSError) as error:
            raise MegaphoneError(
                "a worker of the benchmark ended before its result; its error is printed above"
            ) from error

    def _now_us(self) -> int:
        return self._controller_clock.now_us(self._clock.monotonic_ns() // _US)


def _cpu_s(pid: int) -> float:
    """Processor time of all threads of a process, seconds; 0 if it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _end(child: multiprocessing.process.BaseProcess) -> None:
    """Wait for a worker that is done, end one that is not."""
    child.join(2.0)
    if child.is_alive():
        child.kill()
        child.join()
