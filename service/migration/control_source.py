"""Where a process's dataflow learns what the accepted log says.

Flow: accepted log (Kafka) -> shell -> [ControlSource] -> control ports of sources, F and S.

Invariants
  C1  It holds a capability at the horizon it has read itself and lowers it only by promises it has
      read: a slow reader holds every frontier back instead of missing a command.
  C2  A command reaches the routing table and the control ports before any promise beyond it does.
  C3  After `stop at c` it holds nothing: no command follows.
  C4  Whoever holds rows beyond the horizon is stepped again when this process has read a further
      one: no frontier says that, as it may wait for the slowest reader.
  C5  The table forgets only intervals that no row and no command can still ask for: below the
      frontiers of all that read it.
  C6  It has one output for each depth of loops: S in a loop gets a command in the same step as the
      process's horizon rises, and not a round later through an operator that enters the loop.
Source: DESIGN §4 (control horizon).
"""

from __future__ import annotations

from collections.abc import Callable

from service.dataflow.operator import Capability, OperatorContext
from service.migration.horizon import Command, LogFollower
from service.migration.records import Checkpoint, LogRecord, Move, Stop
from service.migration.routing_table import RoutingTable


class ControlSource:
    """The operator behind all control ports of one process."""

    def __init__(self, follower: LogFollower, table: RoutingTable) -> None:
        """Share the process's routing table; `follower` checks the order of the log."""
        self.follower = follower
        self.table = table
        self.stop: Stop | None = None
        #: Locations behind everything that asks the table (C5); lowering names them.
        self.readers: list[int] = []
        #: Told every record as it is read, after the table and before the control ports.
        self.followers: list[Callable[[LogRecord], None]] = []
        #: Cuts of checkpoints read, ascending, until this process has its part of them.
        self.checkpoints: list[int] = []
        self._pending: list[Command] = []
        self._waiting: set[Callable[[], None]] = set()
        #: One per output; none after the stop (C3).
        self._capabilities: list[Capability] = []

    def open(self, context: OperatorContext) -> None:
        """Take the ports, and on each the capability at the dataflow's first time."""
        self._context = context
        self._outputs = context.outputs
        self._capabilities = [context.initial[port] for port in range(len(self._outputs))]

    def feed(self, record: LogRecord) -> None:
        """Take the next record of the log, in its order.

        Raises:
            ProtocolViolation: the record breaks the log's rules.
        """
        before = self.follower.horizon
        for command in self.follower.apply(record):
            if isinstance(command, Move):
                self.table.apply(command)
            elif isinstance(command, Checkpoint):
                self.table.mark(command.at)
                self.checkpoints.append(command.at)
            self._pending.append(command)
        for follow in self.followers:
            follow(record)
        self.table.advance(self.follower.horizon)
        self._context.activate()
        if self.follower.horizon > before:
            waiting, self._waiting = self._waiting, set()
            for activate in waiting:
                activate()

    def at_next_horizon(self, activate: Callable[[], None]) -> None:
        """Call `activate` once when the horizon of this process has risen (C4)."""
        self._waiting.add(activate)

    def step(self) -> None:
        """Send what was read and lower the capability to what was promised (C1, C2)."""
        if not self._capabilities:
            return
        for command in self._pending:
            for output, capability in zip(self._outputs, self._capabilities, strict=True):
                right = capability.delayed((command.at, *capability.time[1:]))
                output.send(right, command)
                right.drop()
            if isinstance(command, Stop):
                self.stop = command
        self._pending.clear()
        for capability in self._capabilities:
            if self.stop is not None:
                capability.drop()
            elif capability.time[0] < self.follower.horizon:
                capability.downgrade((self.follower.horizon, *capability.time[1:]))
        if self.stop is not None:
            self._capabilities.clear()
        self._forget()

    def _forget(self) -> None:
        """Let the table drop intervals that lie behind all its readers (C5)."""
        reached = self.follower.horizon
        for location in self.readers:
            epoch = self._context.frontier_of(location).epoch()
            if epoch is not None:
                reached = min(reached, epoch)
        self.table.compact(reached)
