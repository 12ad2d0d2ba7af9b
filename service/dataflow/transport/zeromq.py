"""Frames between processes over ZeroMQ.

Flow: a process binds one ROUTER, which only receives, and connects one DEALER to the ROUTER of each
other peer, which only sends. `start` begins a generation; the ROUTER and its address outlive it.

Invariants
  ZT1  One thread uses a transport (the sockets are not thread-safe).
  ZT2  The identity is slot.generation.incarnation: a ROUTER ignores a second connection under the
       same identity without a word, so no two boots and no two generations share one.
  ZT3  Frames of an older generation are dropped and counted. Frames of a newer generation, and of
       processes of this generation not yet added, are kept unread (bounded in bytes) until
       `start` or `add_peer` names their sender. All else is dropped and counted.
  ZT4  Queues of the sockets have no limit in messages, since credit bounds the bytes; a send that
       is refused therefore means that the connection is gone.
  ZT5  Silence is counted in time during which this process looked: a tick adds at most a quarter
       of the timeout, so that a process that was stopped does not take all others for dead.
  ZT6  What `gather` keeps back goes out with `flush`, `wait`, `tick` or `leave`, or before, where
       it is much; frames of a link stay in order.

Source: libzmq 4.3.5; reference on reliability, section 2.8.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import zmq

from service.dataflow.transport.base import BodyPart, Received, length_of
from service.dataflow.transport.counters import TransportCounters
from service.dataflow.transport.frame import REASON_BYTES_MAX, Frame, FrameKind
from service.dataflow.transport.link import Identity, Link, LinkLimits, LinkState, PeerAddress
from service.dataflow.transport.listener import Listener
from service.dataflow.transport.outlet import Outlet
from service.dataflow.transport.security import LinkSecurity, LoopbackOnly
from service.dataflow.transport.strangers import Strangers
from service.errors import PeerError, PeerLost, ProtocolViolation
from service.ids import Slot

#: How long `close` waits for a BYE to leave, milliseconds.
_LINGER_MS = 1000
#: Shorter waits are not the poller's, which counts in milliseconds.
_POLLED_S = 1e-3
#: Kinds whose body is for the link.
_SPOKEN = (FrameKind.HELLO, FrameKind.BYE)
#: A larger body is not kept back, as who waits for it can begin meanwhile; nor are more frames.
_GATHERED_BYTES_MAX, _GATHERED_MAX = 16 << 10, 32


class ZmqTransport:
    """One process's sockets; a Transport once `start` was called."""

    def __init__(
        self,
        slot: Slot,
        incarnation: int,
        *,
        limits: LinkLimits | None = None,
        security: LinkSecurity | None = None,
    ) -> None:
        """Make the listening socket of `slot`'s boot number `incarnation`.

        Args:
            slot: who this process is.
            incarnation: which boot; never used twice for one slot.
            limits: times and bytes of every link.
            security: prepares the sockets; without it only loopback and ipc are accepted.
        """
        self.counters = TransportCounters()
        self._slot = slot
        self._incarnation = incarnation
        self._limits = limits or LinkLimits()
        self._security = security or LoopbackOnly()
        self._generation = 0
        self._index = 0
        self._observer = 0
        self._links: dict[int, Link] = {}
        self._outlets: dict[int, Outlet] = {}
        self._by_identity: dict[bytes, Link] = {}
        #: Links whose HELLO has not gone out.
        self._unready: dict[int, Link] = {}
        self._strangers = Strangers()
        self._replayed: deque[Received] = deque()
        #: Whether small frames are kept back (ZT6).
        self._gathering = False
        self._failure: PeerError | None = None
        #: The reason that a peer gave and that the failure repeats (TR4).
        self._told = ""
        self._ticked_ns: int | None = None
        self._left = False
        self._closed = False
        self._context = zmq.Context(io_threads=1)
        self._heartbeat_ms = self._limits.peer_timeout_ns // 1_000_000
        self._listener = Listener(self._context, self._security, self._heartbeat_ms)
        self._poller = zmq.Poller()
        self._poller.register(self._listener.socket, zmq.POLLIN)

    # Life ---------------------------------------------------------------------------------------

    def bind(self, address: str = "tcp://127.0.0.1:*") -> str:
        """Listen at `address` and return the endpoint others connect to (`*`: any free port).

        Raises:
            UsageError: the address is taken, malformed or not safe (SE1).
        """
        return self._listener.bind(address)

    def start(
        self, generation: int, index: int, observer: int, peers: Mapping[int, PeerAddress]
    ) -> None:
        """Begin `generation` as peer `index`: forget the one before and greet `peers`.

        Args:
            generation: above every generation started before.
            index: the peer index of this process.
            observer: the peer index of the observer.
            peers: who is there, by index; an entry for this process names its slot, the observer
                may be absent.
        """
        assert generation > self._generation, "a generation begins once"
        self._gathering = False
        for peer in list(self._links):
            self._disconnect(peer)
        self._generation = generation
        self._slot = peers[index].slot if index in peers else self._slot
        self._index = index
        self._observer = observer
        self._failure = None
        self._told = ""
        self._ticked_ns = None
        self._replayed.clear()
        self.counters.dropped_older += self._strangers.forget_before(generation)
        for peer, address in peers.items():
            if peer != index:
                self.add_peer(peer, address)

    def add_peer(self, peer: int, address: PeerAddress) -> None:
        """Greet one more process: a member that joins, or an observer that came back.

        Raises:
            UsageError: the address is not safe (SE1).
            PeerLost: the address cannot be used at all.
        """
        assert peer == self._observer or peer not in self._links, f"peer {peer} is there already"
        if peer in self._links:
            self._disconnect(peer)
        own = Identity(self._slot, self._generation, self._incarnation)
        outlet = Outlet(self._context, self._security, address, own.encode(), self._heartbeat_ms)
        link = Link(own, peer, address, self._limits)
        self._links[peer] = self._by_identity[link.identity] = self._unready[peer] = link
        self._outlets[peer] = outlet
        self._poller.register(outlet.socket, zmq.POLLOUT)
        for frame, parts in self._strangers.take(link.identity):
            received = self._judge(link, frame, parts)
            if received is not None:
                self._replayed.append(received)

    def leave(self, because: str = "") -> None:
        """Say BYE on every open link; `close` then waits up to a second for it to get out."""
        self.flush()
        because = self._told if because and self._told else because
        body = (because.encode()[:REASON_BYTES_MAX],) if because else ()
        for link in list(self._links.values()):
            if link.may_send:
                self._put(link, FrameKind.BYE, 0, (), body, 0)
        self._left = True

    def close(self) -> None:
        """Close the sockets. Without `leave` before, peers see a loss."""
        if self._closed:
            return
        self._closed = True
        for peer in list(self._links):
            reached = self._left and not self._links[peer].broken
            self._disconnect(peer, _LINGER_MS if reached else 0)
        self._listener.close()
        self._context.term()

    # What the engine sees -----------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The peer index of this process."""
        return self._index

    @property
    def observer(self) -> int:
        """The peer index of the observer."""
        return self._observer

    @property
    def peers(self) -> tuple[int, ...]:
        """The members that did not leave, ascending, without this process and the observer."""
        return tuple(
            sorted(
                peer
                for peer, link in self._links.items()
                if peer != self._observer and link.state is not LinkState.LEFT
            )
        )

    @property
    def generation(self) -> int:
        """The generation that was started last; 0 before the first."""
        return self._generation

    @property
    def newer_generation(self) -> int:
        """The newest generation above this one that a peer spoke of; 0 if none did."""
        return newest if (newest := self._strangers.newest_generation) > self._generation else 0

    @property
    def connected(self) -> bool:
        """Whether the HELLOs of all members, both ways, are through."""
        return all(peer == self._observer for peer in self._unready) and all(
            link.state is not LinkState.AWAITING
            for peer, link in self._links.items()
            if peer != self._observer
        )

    @property
    def observed(self) -> bool:
        """Whether the observer is there: its loss ends nothing, but some wait for it."""
        return self._observer in self._links

    def send(
        self,
        peer: int,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        parts: Sequence[BodyPart] = (),
        flags: int = 0,
    ) -> None:
        """Send one frame (2 to 3 us for small bodies); before the peer's HELLO it waits here."""
        assert not self._left, "nothing is sent after leave()"
        link = self._links.get(peer)
        if link is None:
            assert peer == self._observer, f"peer {peer} is unknown in this generation"
            self.counters.dropped_observer += 1
        elif link.may_send:
            self._put(link, kind, channel, time, parts, flags)
        elif link.broken or link.state is LinkState.LEFT:
            self.counters.dropped_departed += 1
        else:
            try:
                link.hold(kind, channel, time, parts, flags)
            except PeerLost as error:
                self._fail(link, error)
            else:
                self._advance(link)

    def gather(self) -> None:
        """Keep small frames back until `flush`, so that those for one peer travel as one (ZT6)."""
        self._gathering = True

    def flush(self) -> None:
        """Send what was kept back, and keep nothing back from now on."""
        self._gathering = False
        for peer, outlet in self._outlets.items():
            if outlet.kept:
                self._hand_over(self._links[peer], outlet)

    def receive(self, max_frames: int) -> list[Received]:
        """Read up to `max_frames` messages; those that are for the engine are returned."""
        if self._unready:
            self._advance_all()
        out: list[Received] = []
        while self._replayed and len(out) < max_frames:
            out.append(self._replayed.popleft())
        if self._failure is None:
            self._read(max_frames - len(out), out)
        if self._failure is not None and not out:
            raise self._failure
        return out

    def wait(self, timeout_s: float) -> None:
        """Block until a message is there; timeouts from 1 ms on are rounded up to milliseconds."""
        self.flush()
        if self._replayed or self._failure is not None:
            return
        if self._unready:
            self._advance_all()
        elif timeout_s < _POLLED_S:
            self._listener.wait(timeout_s)
            return
        self._poller.poll(max(0, math.ceil(timeout_s * 1000)))

    def tick(self, now_ns: int) -> None:
        """Send due PULSEs and notice silence (ZT5) and broken connections."""
        self.flush()
        last = now_ns if self._ticked_ns is None else self._ticked_ns
        elapsed = min(max(0, now_ns - last), self._limits.peer_timeout_ns // 4)
        self._ticked_ns = now_ns
        self._advance_all()
        self._listener.count(self.counters)
        for link in list(self._links.values()):
            try:
                broke = self._outlets[link.peer].broke()
                pulse = link.pass_time(elapsed)
            except PeerLost as error:
                # Whoever lost a peer before us is gone as well by now: name them all.
                broken = [str(each) for each in self._links.values() if each.broken]
                also = ", ".join(each for each in broken if each != str(link))
                self._fail(link, PeerLost(f"{error}; broken, too: {also}") if also else error)
                continue
            if pulse:
                self._put(link, FrameKind.PULSE, 0, (), (), 0)
            # Noted only now, so that what came before the break is read before it counts (LK3).
            if broke:
                self._break_off(link)
        if self._failure is not None:
            raise self._failure

    # Sending ------------------------------------------------------------------------------------

    def _put(
        self,
        link: Link,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        parts: Sequence[BodyPart],
        flags: int,
    ) -> None:
        """Hand one frame to the socket, or keep it back (ZT6)."""
        length = length_of(parts)
        self.counters.frames_sent += 1
        self.counters.bytes_sent += length
        outlet = self._outlets[link.peer]
        outlet.keep(link.stamp(kind, channel, time, flags, length, len(parts)), parts)
        if not self._gathering or length > _GATHERED_BYTES_MAX or outlet.kept >= _GATHERED_MAX:
            self._hand_over(link, outlet)

    def _hand_over(self, link: Link, outlet: Outlet) -> None:
        """Let the socket take what is kept; a refusal means that the connection is gone (ZT4)."""
        if not outlet.hand_over():
            self._break_off(link)

    def _advance(self, link: Link) -> None:
        """Send the HELLO if it is still due, and what waited for the peer's."""
        if not link.hello_sent:
            outlet = self._outlets[link.peer]
            if not outlet.greet(*link.hello()):
                return
            link.hello_sent = True
            del self._unready[link.peer]
            self._poller.unregister(outlet.socket)
        while (waiting := link.release()) is not None:
            self._put(link, *waiting)

    def _advance_all(self) -> None:
        for link in list(self._unready.values()):
            self._advance(link)

    # Receiving ----------------------------------------------------------------------------------

    def _read(self, budget: int, out: list[Received]) -> None:
        """Read at most `budget` messages, good or bad, until one ends the generation."""
        listener = self._listener
        for _ in range(budget):
            # Asked first, as a read in vain raises an error, which costs more than the question.
            message = listener.read() if listener.has_message() else None
            if message is None:
                return
            identity, frame, parts = message
            link = self._by_identity.get(identity)
            if link is None:
                verdict = self._strangers.keep(identity, frame, parts, self._generation)
                self.counters.note(verdict)
            elif isinstance(frame, ProtocolViolation):
                self._fail(link, ProtocolViolation(f"{link} sent no frame: {frame}"))
            else:
                received = self._judge(link, frame, parts)
                if received is not None:
                    out.append(received)
            if self._failure is not None:
                return

    def _judge(self, link: Link, frame: Frame, parts: tuple[BodyPart, ...]) -> Received | None:
        """Show a frame to its link; what is for the engine comes back."""
        try:
            said = bytes(parts[0]) if parts and frame.kind in _SPOKEN else b""
            wanted = link.accept(frame, said)
        except PeerError as error:
            self._fail(link, error)
            return None
        self.counters.frames_received += 1
        self.counters.bytes_received += frame.body_length
        if wanted:
            return Received(link.peer, frame.kind, frame.channel, frame.time, parts, frame.flags)
        self._advance(link)
        return None

    # Links --------------------------------------------------------------------------------------

    def _fail(self, link: Link, error: PeerError) -> None:
        """End the generation; the observer's failure only ends its link (TR4)."""
        if link.peer != self._observer:
            if self._failure is None:
                self._failure, self._told = error, link.reason
        elif self._links.get(link.peer) is link:
            self.counters.dropped_observer += 1
            self._disconnect(link.peer)

    def _break_off(self, link: Link) -> None:
        link.break_off()
        if link.broken:
            self._outlets[link.peer].stop()

    def _disconnect(self, peer: int, linger_ms: int = 0) -> None:
        link = self._links.pop(peer)
        outlet = self._outlets.pop(peer)
        del self._by_identity[link.identity]
        if self._unready.pop(peer, None) is not None:
            self._poller.unregister(outlet.socket)
        outlet.close(linger_ms)
