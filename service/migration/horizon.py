"""Promises: how far into the future every process may trust what it knows.

Flow: controller [Promiser] -> accepted log -> every process [LogFollower] -> control source, F;
gateway [TickClock] -> epoch of each batch. Pure: times and monotonic readings are arguments, µs.

The controller promises that no further command has a time below H. A process may route an epoch
only below the H it has read itself, so a process that reads slowly holds frontiers back instead of
missing a command. H runs ahead of the controller's clock by the lookahead; gateways tick by the
*promised* clock, so that no gateway's wall clock can drag the others ahead or freeze them.

Invariants
  HZ1  Horizons never decrease along the log, nor does the clock its records carry.
  HZ2  Command times strictly increase along the log and lie above every earlier horizon.
  HZ3  A horizon is never a command's time.
  HZ4  `stop` is the last command of a generation: after it the horizon is HORIZON_END, and only
       another generation may follow. A generation's number is higher than the last one's, its first
       epoch above every earlier horizon and command, which it cancels.
  HZ5  Ticks of a gateway strictly increase and lie below the horizon it has read.
  HZ6  Numbers of copies rise along the log of a generation; a move claims one that was given.
Not handled here: joining and leaving members, a generation that begins while another runs.
"""

from __future__ import annotations

from collections import deque

from service.errors import ProtocolViolation
from service.migration.records import (
    MAX_EPOCH,
    Checkpoint,
    Generation,
    LogRecord,
    Move,
    PreCopy,
    Promise,
    Stop,
)

#: The horizon after the last command.
HORIZON_END = MAX_EPOCH

Command = Move | Checkpoint | Stop


class LogFollower:
    """Folds the accepted log and refuses one that breaks HZ1-HZ4.

    Every process applies every record, in order; a process acts on commands only after the
    `Generation` record that names it. Reading may begin anywhere in the log: what was not read
    cannot be checked.
    """

    def __init__(self, generation: Generation | None = None) -> None:
        #: No command still to be read has a time below it (HZ1).
        self.horizon = 0
        #: Largest clock read, µs.
        self.clock = 0
        #: The generation that runs, or None before the first.
        self.generation: Generation | None = None
        #: The last command, once read (HZ4).
        self.stop: Stop | None = None
        #: Newest number of a copy (HZ6); 0 before the first.
        self.copies = 0
        #: Largest finite horizon or command time read.
        self._floor = 0
        #: Command times not yet passed by a promise, ascending (HZ3).
        self._ahead: deque[int] = deque()
        if generation is not None:
            self.apply(generation)

    @property
    def earliest_command(self) -> int:
        """Smallest time that a further command may have (HZ2)."""
        return self._floor + 1

    def apply(self, record: LogRecord) -> tuple[Command, ...]:
        """Take in the next record of the log.

        Returns:
            The command the record holds; none for a promise or a generation.

        Raises:
            ProtocolViolation: the record breaks HZ1-HZ4 or HZ6; nothing has changed.
        """
        if record.clock < self.clock:
            raise ProtocolViolation(f"HZ1: clock {record.clock} after {self.clock}")
        if self.stop is not None and not isinstance(record, Generation):
            raise ProtocolViolation(f"HZ4: {type(record).__name__} after stop at {self.stop.at}")
        commands: tuple[Command, ...] = ()
        match record:
            case Promise():
                self._promise(record.horizon)
            case Move():
                if record.precopy > self.copies:
                    raise ProtocolViolation(f"HZ6: a move claims copy {record.precopy}")
                self._command(record.at)
                commands = (record,)
            case Checkpoint():
                self._command(record.at)
                commands = (record,)
            case Stop():
                self._command(record.at)
                self.stop = record
                self.horizon = HORIZON_END
                commands = (record,)
            case PreCopy():
                if record.number <= self.copies:
                    raise ProtocolViolation(f"HZ6: copy {record.number} after {self.copies}")
                self.copies = record.number
            case Generation():
                self._begin(record)
        self.clock = record.clock
        return commands

    def is_command(self, time: int) -> bool:
        """Whether a command that no promise has passed yet has this time."""
        return time in self._ahead

    def _promise(self, horizon: int) -> None:
        if horizon < self.horizon:
            raise ProtocolViolation(f"HZ1: horizon {horizon} after {self.horizon}")
        if self.is_command(horizon):
            raise ProtocolViolation(f"HZ3: horizon {horizon} is a command's time")
        while self._ahead and self._ahead[0] < horizon:
            self._ahead.popleft()
        self.horizon = horizon
        self._floor = max(self._floor, horizon)

    def _command(self, at: int) -> None:
        if at <= self._floor:
            raise ProtocolViolation(f"HZ2: command at {at}, not above {self._floor}")
        self._ahead.append(at)
        self._floor = at

    def _begin(self, record: Generation) -> None:
        if self.generation is not None and record.generation <= self.generation.generation:
            raise ProtocolViolation(
                f"HZ4: generation {record.generation} after {self.generation.generation}"
            )
        if record.first_epoch <= self._floor:
            raise ProtocolViolation(
                f"HZ4: first epoch {record.first_epoch}, not above {self._floor}"
            )
        self.generation = record
        self.stop = None
        self.copies = 0
        self._ahead.clear()
        self.horizon = record.horizon
        self._floor = record.horizon


class Promiser:
    """The controller's side: makes times that its own log can hold.

    Every record goes through a LogFollower as well, so that what is written is what readers accept.
    """

    def __init__(self, log: LogFollower) -> None:
        """Continue `log`, which has applied everything written so far."""
        self._log = log

    @property
    def earliest_command(self) -> int:
        """Smallest time that a command written now may have (HZ2)."""
        return self._log.earliest_command

    def append(self, record: LogRecord) -> LogRecord:
        """Check `record` as every reader will, and return it.

        Raises:
            ProtocolViolation: readers would refuse it.
        """
        self._log.apply(record)
        return record

    def promise(self, clock: int, lookahead: int, below: int = HORIZON_END) -> Promise:
        """Promise up to `clock + lookahead`, but not to or beyond `below`.

        Args:
            clock: the controller's clock, µs.
            lookahead: how far ahead of it, µs.
            below: time of a command still to be written; the promise stays under it (HZ2).

        Returns:
            A record already checked and applied; its horizon may equal the last one, in which case
            it still brings the clock to the gateways.
        """
        horizon = max(self._log.horizon, min(clock + lookahead, below - 1))
        while self._log.is_command(horizon):
            # HZ3, downwards, as `below` may lie right above; the last horizon itself is no command.
            horizon -= 1
        record = Promise(horizon=horizon, clock=clock)
        self._log.apply(record)
        return record


class ControllerClock:
    """The controller's clock: at start max(wall, last promised clock), from then on monotonic.

    So a wall clock set back, or a controller restarted on a machine that is behind, cannot freeze
    the job, and one that is set forward moves it once, at a start, and never during a run.
    """

    def __init__(self, *, wall_us: int, promised_us: int, monotonic_us: int) -> None:
        """Begin at the readings given; `promised_us` is the largest clock found in the log."""
        self._start_us = max(wall_us, promised_us)
        self._start_monotonic_us = monotonic_us

    def now_us(self, monotonic_us: int) -> int:
        """The clock, µs, at a reading of the monotonic clock."""
        return self._start_us + (monotonic_us - self._start_monotonic_us)


class TickClock:
    """A gateway's source of epochs: newest promised clock plus its own monotonic time since (HZ5).

    A promise read late sets the clock back by its delay; ticks then rise by 1 µs until the clock
    has caught up, which costs nothing. Keeping the largest estimate instead would let a gateway
    whose crystal is fast run ahead without end, into the horizon.
    """

    def __init__(self, first_epoch: int) -> None:
        """Ticks begin at `first_epoch` at the earliest."""
        #: Last tick given, or one below the first.
        self.last = first_epoch - 1
        self._promised_us = 0
        self._read_us: int | None = None

    def observe(self, clock_us: int, monotonic_us: int) -> None:
        """Note the clock of a log record and the monotonic time at which it was read."""
        self._promised_us = clock_us
        self._read_us = monotonic_us

    def now_us(self, monotonic_us: int) -> int:
        """The gateway's idea of the controller's clock, µs; 0 before any record was read."""
        if self._read_us is None:
            return 0
        return self._promised_us + (monotonic_us - self._read_us)

    def next(self, monotonic_us: int, horizon: int) -> int | None:
        """The next epoch, or None: do not tick and stop reading until `horizon` rises.

        Args:
            monotonic_us: now.
            horizon: the horizon this process has read itself.
        """
        if self._read_us is None or self.last + 1 >= horizon:
            return None
        self.last = max(self.last + 1, min(self.now_us(monotonic_us), horizon - 1))
        return self.last
