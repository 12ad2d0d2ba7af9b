"""One link between two processes: who speaks, in which order, and whether it still lives.

Flow: a transport with sockets asks the Link of a peer what may be sent now and under which sequence
number, shows it every frame of that peer, and lets time pass on it. The Link owns no socket.

States of the incoming direction: AWAITING -(HELLO)-> OPEN -(BYE)-> LEFT.

Invariants
  LK1  Nothing but HELLO goes out before the peer's HELLO of this generation has come in, and HELLO
       goes out first; frames offered earlier wait in order, bounded in bytes.
  LK2  Frames come in with sequences 0, 1, 2...; anything else raises and ends the generation.
  LK3  A peer is lost after `peer_timeout_ns` of silence, `hello_timeout_ns` without a HELLO, or
       `broken_grace_ns` after its connection broke (time for a BYE that is already under way). A
       connection that broke before our HELLO went out may be made again: nothing of ours is lost.
       A peer of which nothing is heard is lost `remade_grace_ns` after that, since a peer that
       died as the generation began would else be missed only with `hello_timeout_ns`.
  LK4  After BYE a peer is neither lost nor heard; a BYE with a reason is its loss.

Pure: no I/O; time comes in as elapsed nanoseconds.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from service.dataflow.transport.base import BodyPart, length_of
from service.dataflow.transport.frame import Frame, FrameKind, pack_header
from service.errors import PeerLost, ProtocolViolation, UsageError
from service.ids import Slot

#: Stands in an endpoint between the address and the public key of who listens there.
KEY_MARK: Final = "#"
_IDENTITY = re.compile(rb"([a-z]{1,16}(?:-\d{1,5})?)\.(\d{1,10})\.(\d{1,20})")


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a process listens and which boot of which slot it is."""

    slot: Slot
    incarnation: int
    endpoint: str

    def __str__(self) -> str:
        return f"{self.slot} at {self.endpoint.partition(KEY_MARK)[0]}"


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Times and bytes that bound a link."""

    #: From the start of a generation to the peer's HELLO.
    hello_timeout_ns: int = 30_000_000_000
    #: Silence after which a peer is lost.
    peer_timeout_ns: int = 10_000_000_000
    #: Own silence after which a PULSE goes out.
    pulse_ns: int = 500_000_000
    #: From a broken connection to the loss of the peer.
    broken_grace_ns: int = 500_000_000
    #: From a connection that broke before our HELLO to the loss of the peer: several attempts.
    remade_grace_ns: int = 2_000_000_000
    #: Bytes that may wait for the peer's HELLO.
    waiting_bytes_max: int = 64 << 20


class Identity(NamedTuple):
    """Who a connection says it comes from; proves nothing by itself."""

    slot: Slot
    generation: int
    incarnation: int

    def encode(self) -> bytes:
        """`slot.generation.incarnation`: a new boot or generation is never taken for the old."""
        return f"{self.slot}.{self.generation}.{self.incarnation}".encode()


def parse_identity(data: bytes) -> Identity | None:
    """Read an identity back; None if the bytes are none."""
    match = _IDENTITY.fullmatch(data)
    if match is None:
        return None
    try:
        slot = Slot.parse(match[1].decode())
    except UsageError:
        return None
    identity = Identity(slot, int(match[2]), int(match[3]))
    return identity if identity.encode() == data else None


class LinkState(Enum):
    """How far the incoming direction is."""

    AWAITING = auto()
    OPEN = auto()
    LEFT = auto()


class Outgoing(NamedTuple):
    """A frame that waits for the peer's HELLO."""

    kind: FrameKind
    channel: int
    time: tuple[int, ...]
    parts: tuple[BodyPart, ...]
    flags: int


class Link:
    """State of the link from process `own` to the process at `address`, known as `peer`."""

    def __init__(
        self, own: Identity, peer: int, address: PeerAddress, limits: LinkLimits | None = None
    ) -> None:
        self.peer = peer
        self.address = address
        #: What the peer's socket calls itself in this generation.
        self.identity = Identity(address.slot, own.generation, address.incarnation).encode()
        self.state = LinkState.AWAITING
        self.hello_sent = False
        self.broken = False
        self._breached = False
        #: Why the peer gave up, if it did (LK4).
        self.reason = ""
        self._own = own
        self._limits = limits or LinkLimits()
        self._waiting: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        self._next_out = 0
        self._next_in = 0
        self._heard = False
        self._spoke = False
        self._silence_ns = 0
        self._quiet_ns = 0

    def __str__(self) -> str:
        return str(self.address)

    @property
    def may_send(self) -> bool:
        """Whether frames may go out now (LK1)."""
        return self.hello_sent and self.state is LinkState.OPEN and not self.broken

    def hello(self) -> tuple[bytes, bytes]:
        """Header and body of the HELLO; the body names whom we believe to talk to.

        The caller sets `hello_sent` once the socket took it; until then it may be asked for again.
        """
        assert not self.hello_sent, "LK1: one HELLO per link"
        body = str(self.address.slot).encode()
        own = self._own
        header = pack_header(
            FrameKind.HELLO, own.generation, own.incarnation, 0, 0, (), 0, len(body), 1
        )
        return header, body

    def stamp(
        self,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        flags: int,
        length: int,
        parts: int,
    ) -> bytes:
        """The header of the next frame; takes a sequence number, so it must then be sent."""
        header = pack_header(
            kind,
            self._own.generation,
            self._own.incarnation,
            self._next_out + 1,
            channel,
            time,
            flags,
            length,
            parts,
        )
        self._next_out += 1
        self._spoke = True
        return header

    def hold(
        self,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        parts: Sequence[BodyPart],
        flags: int,
    ) -> None:
        """Keep a frame until the peer's HELLO is here (LK1).

        Raises:
            PeerLost: more waits than the limits allow.
        """
        self._waiting_bytes += length_of(parts)
        if self._waiting_bytes > self._limits.waiting_bytes_max:
            raise PeerLost(
                f"{self} said no hello while {self._waiting_bytes} bytes waited for it "
                f"(limit {self._limits.waiting_bytes_max}); generation {self._own.generation} ends"
            )
        self._waiting.append(Outgoing(kind, channel, time, tuple(parts), flags))

    def release(self) -> Outgoing | None:
        """The oldest waiting frame, once frames may go out; None if none waits or may go."""
        if not self._waiting or not self.may_send:
            return None
        outgoing = self._waiting.popleft()
        self._waiting_bytes -= length_of(outgoing.parts)
        return outgoing

    def accept(self, frame: Frame, body: bytes) -> bool:
        """Judge a frame of this peer (LK2); True if it is for the engine.

        Args:
            frame: the header.
            body: the first part of the body of a HELLO or BYE; ignored for all other kinds.

        Raises:
            PeerLost: frames before this one are missing, or the peer gave up and says why (LK4).
            ProtocolViolation: the frame is not allowed here.
        """
        if (
            frame.generation != self._own.generation
            or frame.incarnation != self.address.incarnation
        ):
            raise ProtocolViolation(
                f"{self} sent a frame of generation {frame.generation}, incarnation "
                f"{frame.incarnation}; its connection says {self.identity.decode()}"
            )
        if self.state is LinkState.LEFT:
            raise ProtocolViolation(f"{self} sent a {frame.kind.name} frame after its BYE")
        if frame.sequence != self._next_in:
            raise PeerLost(
                f"{self} sent frame {frame.sequence} where {self._next_in} was expected: frames "
                f"were lost on the way; generation {self._own.generation} ends"
            )
        if (frame.kind is FrameKind.HELLO) is not (self.state is LinkState.AWAITING):
            raise ProtocolViolation(
                f"{self} sent a {frame.kind.name} frame while its link was {self.state.name}"
            )
        self._next_in += 1
        self._heard = True
        if frame.kind is FrameKind.HELLO:
            if body != str(self._own.slot).encode():
                raise ProtocolViolation(
                    f"{self} believes to talk to {body[:64]!r}, but this is {self._own.slot}; "
                    "its table of addresses is wrong"
                )
            self.state = LinkState.OPEN
            return False
        if frame.kind is FrameKind.BYE:
            self.state = LinkState.LEFT
            self._waiting.clear()
            if body:
                self.reason = body.decode(errors="replace")
                raise PeerLost(f"{self} gave up generation {self._own.generation}: {self.reason}")
        return frame.kind is not FrameKind.PULSE

    def break_off(self) -> None:
        """Note that the connection broke; what follows a HELLO is lost with it (LK3)."""
        if self.broken or (self._breached and not self.hello_sent):
            return
        self.broken, self._breached = self.hello_sent, True
        self._silence_ns = 0

    def pass_time(self, elapsed_ns: int) -> bool:
        """Let `elapsed_ns` pass; True if a PULSE is due.

        Raises:
            PeerLost: the peer was silent for too long (LK3).
        """
        if self.state is LinkState.LEFT:
            return False
        breached = self._breached and not self.hello_sent
        if self.broken or breached:
            # Several ticks, with reading in between, before a break counts.
            elapsed_ns = min(elapsed_ns, self._limits.broken_grace_ns // 4)
        self._silence_ns = 0 if self._heard and not self.broken else self._silence_ns + elapsed_ns
        self._heard = False
        if self.broken:
            limit, what = self._limits.broken_grace_ns, "closed its connection without a BYE"
        elif breached:
            limit, what = self._limits.remade_grace_ns, "closed its connection and made no other"
        elif self.state is LinkState.AWAITING:
            limit, what = self._limits.hello_timeout_ns, "said no hello"
        else:
            limit, what = self._limits.peer_timeout_ns, "was silent"
        if self._silence_ns > limit:
            raise PeerLost(
                f"{self} {what} ({limit / 1e9:g} s allowed); generation {self._own.generation} ends"
            )
        self._quiet_ns = 0 if self._spoke else self._quiet_ns + elapsed_ns
        self._spoke = False
        return self.may_send and self._quiet_ns >= self._limits.pulse_ns
