"""The listening socket of a process: a ROUTER that only receives.

Flow: connections of peers -> [Listener] -> identity, header and body parts, one frame at a time.

A message holds the identity of its sender and one frame or several, each a header and the parts of
its body; how many those are its header says.

Invariants
  LS1  A message with something that is no frame is read to its end; the next read begins with the
       next message.
  LS2  Bytes that are no frame give a ProtocolViolation in place of the frame, never another error.
  LS3  Connections that do not speak the sockets' protocol, or begin a part of a message that is
       larger than any of ours, are dropped by libzmq; those that end are counted here.
  LS4  Where connections prove keys, a message under a name that its key may not have is read as one
       without a name, and counted.
"""

from __future__ import annotations

import select
import struct
from typing import Final, NamedTuple

import zmq
from zmq.backend import Socket as PlainSocket

from service.dataflow.transport.base import BodyPart
from service.dataflow.transport.counters import TransportCounters
from service.dataflow.transport.frame import (
    BODY_BYTES_MAX,
    Frame,
    decode_header,
)
from service.dataflow.transport.security import LinkSecurity
from service.errors import ProtocolViolation, UsageError

#: From this size on a part is handed over without a copy; below it the bookkeeping costs more than
#: the copy (measured: 64 KiB take 20 us with a copy and 10 us without, 24 KiB the same either way).
ZERO_COPY_BYTES: Final = 64 << 10
#: How long a connection may take to say who it is, milliseconds.
_HANDSHAKE_MS: Final = 5_000
_HEARTBEAT_MS: Final = 1_000
#: As numbers: an operation on the library's flags makes a new flag each time, and takes 1 us.
_READABLE: Final = int(zmq.POLLIN)
_NOW: Final = int(zmq.NOBLOCK)
#: Without the layer above it, which is for options that are not used here, and takes 0.4 us.
_receive = PlainSocket.recv

#: How an event of a monitor begins: which it is, and a value.
_EVENT = struct.Struct("=Hi")
_FAILED_HANDSHAKE = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Message(NamedTuple):
    """What one connection sent: a frame, or why it is none (LS2); `frame` and body `parts`."""

    identity: bytes
    frame: Frame | ProtocolViolation
    parts: tuple[BodyPart, ...]


def set_common_options(socket: zmq.Socket[bytes], heartbeat_timeout_ms: int) -> None:
    """Options of every socket: no limit in messages, no linger, heartbeats of the connection."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, heartbeat_timeout_ms)


def event_of(monitor: zmq.Socket[bytes]) -> int:
    """The next event of a socket's monitor."""
    event, _ = _EVENT.unpack(monitor.recv_multipart()[0])
    return int(event)


class Listener:
    """Owns the ROUTER and what watches over it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], security: LinkSecurity, heartbeat_ms: int
    ) -> None:
        self.socket = context.socket(zmq.ROUTER)
        set_common_options(self.socket, heartbeat_ms)
        self.socket.setsockopt(zmq.MAXMSGSIZE, BODY_BYTES_MAX)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        security.prepare_listener(self.socket)
        self._security = security
        self._proves = security.proves
        self._false_names = 0
        self._monitor = self.socket.get_monitor_socket(_FAILED_HANDSHAKE | zmq.EVENT_DISCONNECTED)
        self._descriptor = int(self.socket.getsockopt(zmq.FD))
        #: Whose message is being read, and whether more of it is there.
        self._identity = b""
        self._more = False
        #: Whether the socket had nothing when it was last asked, and was not touched since.
        self._empty = False

    def bind(self, address: str) -> str:
        """Listen at `address`; returns the endpoint with its port.

        Raises:
            UsageError: the address is taken, malformed or not safe.
        """
        self._security.check(address)
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            raise UsageError(
                f"cannot listen at {address}: {error.strerror}; choose another address"
            ) from error
        return self._security.told(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def has_message(self) -> bool:
        """Whether `read` would give something: 1 us, a third of what a read in vain costs."""
        if self._more:
            return True
        there = bool(int(self.socket.getsockopt(zmq.EVENTS)) & _READABLE)
        self._empty = not there
        return there

    def wait(self, timeout_s: float) -> None:
        """Block until a message is there, to the kernel's precision.

        The socket's descriptor tells only of what came since it was last asked for its events.
        """
        if self._empty or not self.has_message():
            select.select([self._descriptor], [], [], max(0.0, timeout_s))
            self._empty = False

    def read(self) -> Message | None:
        """The next frame that is there now (LS1); None if there is none."""
        if not self._more:
            try:
                if self._proves:
                    self._identity = self._proven_identity()
                else:
                    self._identity = _receive(self.socket, _NOW)
            except zmq.Again:
                return None
        try:
            frame, parts = self._read_frame()
        except ProtocolViolation as error:
            return Message(self._identity, error, ())
        return Message(self._identity, frame, parts)

    def count(self, counters: TransportCounters) -> None:
        """Bring the counts of what was refused here up to date (LS3, LS4)."""
        while self._monitor.poll(0):
            if event_of(self._monitor) == zmq.EVENT_DISCONNECTED:
                counters.ended_connections += 1
            else:
                counters.failed_handshakes += 1
        counters.refused_keys = self._security.refused
        counters.last_refused = self._security.last_refused
        counters.dropped_false_name = self._false_names

    def close(self) -> None:
        """Close the socket; what was not read is lost."""
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close(linger=0)

    def _proven_identity(self) -> bytes:
        """Who the next message comes from, as far as its key may say so (LS4)."""
        frame = self.socket.recv(zmq.NOBLOCK, copy=False)
        identity = frame.bytes
        if self._security.may_be(str(frame.get("User-Id")), identity):
            return identity
        self._false_names += 1
        return b""

    def _read_frame(self) -> tuple[Frame, tuple[BodyPart, ...]]:
        socket = self.socket
        try:
            frame = decode_header(_receive(socket, _NOW))
            announced = frame.body_length
            parts: list[BodyPart] = []
            length = 0
            more = socket.getsockopt(zmq.RCVMORE)
            while more and len(parts) < frame.body_parts:
                part: bytes | memoryview
                if announced < ZERO_COPY_BYTES:
                    part = _receive(socket, _NOW)
                else:
                    whole = socket.recv(zmq.NOBLOCK, copy=False)
                    part = whole.buffer if len(whole) >= ZERO_COPY_BYTES else whole.bytes
                parts.append(part)
                length += len(part)
                more = socket.getsockopt(zmq.RCVMORE)
            if length != announced or len(parts) != frame.body_parts:
                raise ProtocolViolation(
                    f"a frame of {announced} bytes came with {length} in {len(parts)} parts"
                )
        except ProtocolViolation:
            while socket.getsockopt(zmq.RCVMORE):
                socket.recv(zmq.NOBLOCK, copy=False)
            self._more = False
            raise
        self._more = bool(more)
        return frame, tuple(parts)
