"""Frames of processes that are no peers yet: kept unread until somebody names their sender.

Flow: a transport gives frames here whose connection belongs to no link. `keep` decides; `take`
gives back what a process said, once `start` or `add_peer` has named it.

Invariants
  ST1  Only frames of the current or a newer generation are kept, and only if the connection's first
       kept frame is its HELLO: anything else is the rest of a link that was given up.
  ST2  Kept bytes never exceed the bound; what finds no room is dropped, and the gap it leaves is
       noticed by the link later.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from service.dataflow.transport.base import BodyPart
from service.dataflow.transport.frame import Frame, FrameKind
from service.dataflow.transport.link import parse_identity
from service.errors import ProtocolViolation

#: Unread frames are HELLOs, a few dozen bytes each.
KEPT_BYTES_MAX: Final = 1 << 20
#: What keeping a frame costs beside its body.
_FRAME_BYTES: Final = 512

KeptFrame = tuple[Frame, tuple[BodyPart, ...]]


class Verdict(Enum):
    """What became of a stranger's frame."""

    KEPT = auto()
    #: Of a generation that is over.
    OLDER = auto()
    #: No frame, of no process of the job, or of a link that was given up.
    UNKNOWN = auto()
    #: It should have been kept (ST2).
    NO_ROOM = auto()


class Strangers:
    """Unread frames by the identity of their connection."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: dict[bytes, list[KeptFrame]] = {}
        self._newest = 0

    @property
    def newest_generation(self) -> int:
        """The newest generation of all frames ever kept."""
        return self._newest

    def keep(
        self,
        identity: bytes,
        frame: Frame | ProtocolViolation,
        parts: tuple[BodyPart, ...],
        generation: int,
    ) -> Verdict:
        """Keep a frame while `generation` is the current one (ST1, ST2), or say why not."""
        claimed = parse_identity(identity)
        if (
            isinstance(frame, ProtocolViolation)
            or claimed is None
            or claimed.generation != frame.generation
            or claimed.incarnation != frame.incarnation
        ):
            return Verdict.UNKNOWN
        if frame.generation < generation:
            return Verdict.OLDER
        if identity not in self._kept and frame.kind is not FrameKind.HELLO:
            return Verdict.UNKNOWN
        size = frame.body_length + _FRAME_BYTES
        if self._bytes + size > self._bytes_max:
            return Verdict.NO_ROOM
        self._bytes += size
        self._kept.setdefault(identity, []).append((frame, parts))
        self._newest = max(self._newest, frame.generation)
        return Verdict.KEPT

    def take(self, identity: bytes) -> list[KeptFrame]:
        """What the process behind `identity` said, in order; it is kept no longer."""
        kept = self._kept.pop(identity, [])
        self._bytes -= sum(frame.body_length + _FRAME_BYTES for frame, _ in kept)
        return kept

    def forget_before(self, generation: int) -> int:
        """Drop the frames of generations below `generation`; returns their number."""
        stale = [key for key, kept in self._kept.items() if kept[0][0].generation < generation]
        return sum(len(self.take(identity)) for identity in stale)
