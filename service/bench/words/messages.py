"""What the process that directs a run and its workers tell one another, over a pipe each.

Flow: director -> [LogLine, Load, Begin] -> worker; worker -> [Ready, Loaded, Told, Ran, Result] ->
director. Plain values. Rows, state and progress never go this way: they have the transport.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.bench.words.histogram import Int64s, Latencies


@dataclass(frozen=True, slots=True)
class LogLine:
    """The next record of the accepted log, and when it was appended; us of the monotonic clock."""

    record: bytes
    at_us: int


@dataclass(frozen=True, slots=True)
class Load:
    """Insert all keys."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The run begins at this reading of the monotonic clock, ns."""

    start_ns: int


Order = LogLine | Load | Begin


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected to everybody; records/s of the fold alone, 0 if it was not measured."""

    bare: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker's share of the keys is in, in so many batches."""

    rounds: int


@dataclass(frozen=True, slots=True)
class Told:
    """A report of a member to the controller, as plain values."""

    body: dict[str, object]


@dataclass(frozen=True, slots=True)
class Ran:
    """All records of the worker's schedule were counted."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker saw, told when the job has stopped."""

    #: By the frontier, and by record of bins that stay and of bins that move; empty at full speed.
    frontier: Latencies
    stayed: Latencies
    moved: Latencies
    #: Records sent in the run, without those of the load phase.
    records: int
    #: Weight of all that was sent, and of what the table holds; rows and records of the table.
    weight_sent: int
    weight_held: int
    rows: int
    counted: int
    #: (ns since the run began, own records counted by then), ascending.
    progress: list[tuple[int, int]]
    #: Bins that left: (cut, bin, new owner, keys).
    left: list[tuple[int, int, int, int]]
    #: Keys and counts, where they were asked for.
    table: tuple[Int64s, Int64s] | None


Answer = Ready | Loaded | Told | Ran | Result
