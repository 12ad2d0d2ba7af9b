"""What the engine asks of a transport, whichever it is.

Flow: the engine of a process owns one Transport. It sends frames to peers by index, receives what
peers sent, waits when there is nothing to do, and ticks so that silence is noticed. Indices
0..P-1 are the members of the dataflow; the observer (the controller) has an index of its own.

Invariants
  TR1  Frames of one sender arrive in the order sent, each once, or PeerLost is raised.
  TR2  `send` never blocks; what bounds it is credit, taken before by the caller.
  TR3  A body is not changed after it was handed to `send`; it may be sent without copying.
  TR4  The loss of the observer ends nothing; the loss of a member raises PeerLost, after all
       frames that came before it were received. A member that gave up says why, and PeerLost says
       it, too; who ends because of that passes the same reason on, so that all name the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import pyarrow as pa

from service.dataflow.transport.frame import FrameKind

#: One part of a body. All three are read through the buffer protocol.
BodyPart: TypeAlias = bytes | memoryview | pa.Buffer


class Received(NamedTuple):
    """A frame as it arrives: `sender` is a peer index, `parts` the body as it was sent.

    A named tuple because one is made per frame: building it costs a third of a frozen dataclass.
    """

    sender: int
    kind: FrameKind
    channel: int
    time: tuple[int, ...]
    parts: tuple[BodyPart, ...] = ()
    flags: int = 0

    @property
    def body(self) -> BodyPart:
        """The only part, b"" if there is none; several parts are joined (a copy)."""
        if len(self.parts) == 1:
            return self.parts[0]
        return b"".join(memoryview(part) for part in self.parts)

    @property
    def body_length(self) -> int:
        """Bytes of all parts, as credit counts them."""
        return length_of(self.parts)


class Transport(Protocol):
    """Frames to and from the peers of one generation; used by one thread."""

    @property
    def index(self) -> int:
        """The peer index of this process."""
        ...

    @property
    def observer(self) -> int:
        """The peer index of the observer; may be this process itself."""
        ...

    @property
    def peers(self) -> tuple[int, ...]:
        """The members that did not leave, ascending, without this process and the observer."""
        ...

    def send(
        self,
        peer: int,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        parts: Sequence[BodyPart] = (),
        flags: int = 0,
    ) -> None:
        """Send one frame to `peer` (TR2, TR3); to an absent observer it is dropped and counted.

        The loss of a member is not told here but by the next `receive` or `tick`: a BYE that
        explains it may still be unread.

        Raises:
            ProtocolViolation: the frame exceeds the limits of a frame.
        """
        ...

    def gather(self) -> None:
        """From now on small frames may be kept back until `flush`, `wait` or `tick`."""
        ...

    def flush(self) -> None:
        """Send what was kept back."""
        ...

    def receive(self, max_frames: int) -> list[Received]:
        """Up to `max_frames` frames that are there now (TR1). Never HELLO or PULSE; BYE is shown.

        Raises:
            PeerLost: a member is gone, or frames of it are missing.
            ProtocolViolation: a member sent what it may not.
        """
        ...

    def wait(self, timeout_s: float) -> None:
        """Block until `receive` may give something, at most about `timeout_s` seconds."""
        ...

    def tick(self, now_ns: int) -> None:
        """Let time pass: pulses go out, silence is noticed. Call it every 0.1 to 1 s.

        Raises:
            PeerLost: a member was silent for too long or never said hello.
        """
        ...

    def leave(self, because: str = "") -> None:
        """Tell every peer that this process leaves on purpose; nothing may be sent afterwards.

        With a reason the generation cannot go on: members raise PeerLost with it (TR4).
        """
        ...

    def close(self) -> None:
        """Release what the transport holds; without `leave` before, peers take it for a loss."""
        ...


def length_of(parts: Sequence[BodyPart]) -> int:
    """Bytes of all `parts` together."""
    total = 0
    for part in parts:
        total += part.nbytes if isinstance(part, memoryview) else len(part)
    return total
