"""What S keeps in mind about bins that leave and come at one cut.

Flow: a move read by S -> [Departure] at the old owner, [Arrival] at the new one -> [CutReport] for
the controller. Plain records; the rules are S's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from service.dataflow.operator import Capability
from service.statestore.chunk import BinAssembler

#: What an old owner sends at a cut, beside chunks, once what it emitted below the cut has passed
#: all that lies below S in its own process. No chunk is so short.
PASSED = b"MPBP"


@dataclass(slots=True)
class Departure:
    """Bins that leave at one cut: the right to send them (S3) and what is left to do."""

    right: Capability
    bins: list[tuple[int, int]]
    #: New owners that are to be told that what was emitted below the cut has passed.
    untold: list[int]
    #: Chunks of the bin being sent; None between bins.
    chunks: Iterator[bytes] | None = None
    target: int = -1


@dataclass(slots=True)
class Arrival:
    """Bins that come at one cut."""

    cut: int
    bins: int
    missing: set[int]
    #: Old owners of which something emitted below the cut may still be under way.
    passing: set[int]
    assemblers: dict[int, BinAssembler] = field(default_factory=dict)
    #: Bins that are installed and not yet released.
    installed: list[int] = field(default_factory=list)
    bytes: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class CutReport:
    """What a new owner tells the controller when all its bins of a cut are released."""

    vertex: str
    cut: int
    bins: int
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What an old owner tells the controller when its copies of one number are ready."""

    vertex: str
    number: int
    #: Keys that have changed since they were told.
    left: int
