"""Frames between peers of one process: for `--local`, unit tests and the simulator.

Flow: MemoryNetwork makes one transport per peer. Ordinarily a frame is in its receiver's inbox as
soon as it is sent. A *stepped* network instead keeps frames on their link until `deliver(link)`,
so that a seeded simulator decides which link moves next: order holds per link and nowhere else.

Invariants
  MN1  Per link, frames are delivered in the order sent (TR1).
  MN2  Stepped runs are deterministic: what happens depends on the calls made and nothing else.
  MN3  After `crash(p)` nothing more leaves p; what was on its links may still be delivered, and
       then every member that p was linked to raises PeerLost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from service.dataflow.transport.base import BodyPart, Received, length_of
from service.dataflow.transport.frame import BODY_BYTES_MAX, REASON_BYTES_MAX, FrameKind
from service.errors import PeerLost, ProtocolViolation


class LinkName(NamedTuple):
    """A direction between two peers."""

    source: int
    target: int


class MemoryNetwork:
    """Links between `n_peers` members and one observer, whose index is `n_peers`."""

    def __init__(self, n_peers: int, *, stepped: bool = False) -> None:
        """Make the transports; `stepped` networks move frames by `deliver` only."""
        self.stepped = stepped
        self.observer = n_peers
        self.transports = tuple(MemoryTransport(self, index) for index in range(n_peers + 1))
        self._links: dict[LinkName, deque[Received]] = {}
        self._crashed: set[int] = set()

    def transport(self, index: int) -> MemoryTransport:
        """The transport of a peer; `n_peers` is the observer's."""
        return self.transports[index]

    def pending_links(self) -> list[LinkName]:
        """Links with undelivered frames, in a fixed order."""
        return sorted(link for link, frames in self._links.items() if frames)

    def pending_frames(self, link: LinkName) -> int:
        """How many frames wait on `link`."""
        return len(self._links.get(link, ()))

    def deliver(self, link: LinkName) -> Received:
        """Move the oldest frame of `link` into its receiver's inbox and return it (MN1).

        Raises:
            IndexError: nothing waits on the link.
        """
        received = self._links[link].popleft()
        self.transports[link.target].accept(received)
        self._announce_loss(link)
        return received

    def deliver_all(self) -> int:
        """Deliver everything that waits, link after link; returns the number of frames."""
        count = 0
        for link in self.pending_links():
            while self._links[link]:
                self.deliver(link)
                count += 1
        return count

    def drop(self, link: LinkName) -> int:
        """Lose what waits on `link`: the receiver of a member's frames sees a loss (TR1)."""
        lost = len(self._links.get(link, ()))
        if lost:
            self._links[link].clear()
            self.transports[link.target].lose(link.source)
        return lost

    def crash(self, peer: int) -> None:
        """End `peer` without a farewell (MN3)."""
        self._crashed.add(peer)
        for other in range(len(self.transports)):
            if other != peer:
                self._announce_loss(LinkName(peer, other))

    def post(self, link: LinkName, received: Received) -> None:
        """Put a frame on `link`; called by the sending transport."""
        if link.source in self._crashed:
            return
        if self.stepped:
            self._links.setdefault(link, deque()).append(received)
        else:
            self.transports[link.target].accept(received)

    def _announce_loss(self, link: LinkName) -> None:
        if link.source in self._crashed and not self.pending_frames(link):
            self.transports[link.target].lose(link.source)


class MemoryTransport:
    """One peer's end of a MemoryNetwork; a Transport."""

    def __init__(self, network: MemoryNetwork, index: int) -> None:
        """Belong to `network` as peer `index`; made by the network."""
        self._network = network
        self._index = index
        self._inbox: deque[Received] = deque()
        self._arrived = threading.Event()
        self._left: set[int] = set()
        self._lost: int | None = None
        #: Why a member that gave up did so.
        self._told = ""
        self._leaving = False

    @property
    def index(self) -> int:
        """The peer index of this end."""
        return self._index

    @property
    def observer(self) -> int:
        """The index after the last member's."""
        return self._network.observer

    @property
    def peers(self) -> tuple[int, ...]:
        """The members that did not leave, without this one."""
        absent = self._left | {self._index}
        return tuple(peer for peer in range(self.observer) if peer not in absent)

    def send(
        self,
        peer: int,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        parts: Sequence[BodyPart] = (),
        flags: int = 0,
    ) -> None:
        """Hand a frame to the network; the body is passed by reference (TR3)."""
        assert peer != self._index, "a frame to oneself does not pass a transport"
        assert not self._leaving, "nothing is sent after leave()"
        if length_of(parts) > BODY_BYTES_MAX:
            raise ProtocolViolation(
                f"a frame of {length_of(parts)} bytes cannot be sent; the limit is {BODY_BYTES_MAX}"
            )
        received = Received(self._index, kind, channel, time, tuple(parts), flags)
        self._network.post(LinkName(self._index, peer), received)

    def gather(self) -> None:
        """Nothing is gained by keeping frames back."""

    def flush(self) -> None:
        """Nothing is kept back."""

    def receive(self, max_frames: int) -> list[Received]:
        """What was delivered, oldest first; PeerLost once nothing older is left (TR4)."""
        out: list[Received] = []
        self._arrived.clear()
        while self._inbox and len(out) < max_frames:
            received = self._inbox.popleft()
            if received.kind is FrameKind.BYE:
                self._left.add(received.sender)
                if received.body_length:
                    self._give_up(received)
                    continue
            out.append(received)
        if self._inbox:
            self._arrived.set()
        elif self._lost is not None and not out:
            how = f"gave up: {self._told}" if self._told else "is gone from the in-memory network"
            raise PeerLost(f"peer {self._lost} {how}; the generation ends")
        return out

    def _give_up(self, bye: Received) -> None:
        if bye.sender != self.observer and self._lost is None:
            self._lost = bye.sender
            self._told = bytes(bye.body).decode(errors="replace")

    def wait(self, timeout_s: float) -> None:
        """Block until a frame is delivered by another thread; a stepped network never blocks."""
        if not self._network.stepped and not self._inbox and self._lost is None:
            self._arrived.wait(timeout_s)

    def tick(self, now_ns: int) -> None:
        """Memory is never silent: nothing to do."""

    def leave(self, because: str = "") -> None:
        """Send BYE to all peers that are there."""
        because = self._told if because and self._told else because
        body = (because.encode()[:REASON_BYTES_MAX],) if because else ()
        for peer in (*self.peers, self.observer):
            if peer != self._index and peer not in self._left:
                self.send(peer, FrameKind.BYE, 0, (), body)
        self._leaving = True

    def close(self) -> None:
        """Without `leave` before, the other members see a loss (TR4)."""
        if not self._leaving:
            self._network.crash(self._index)
            self._leaving = True

    def accept(self, received: Received) -> None:
        """Take a delivered frame; called by the network."""
        self._inbox.append(received)
        self._arrived.set()

    def lose(self, peer: int) -> None:
        """Note the loss of `peer`; called by the network. The observer's means nothing (TR4)."""
        if peer != self.observer and peer not in self._left and self._lost is None:
            self._lost = peer
            self._arrived.set()
