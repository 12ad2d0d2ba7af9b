"""The connecting socket of a link: a DEALER that only sends.

Flow: headers and body parts -> [Outlet] -> the listening socket of one other process.

Invariants
  OU1  A message is taken whole or not at all; it is not taken while there is no connection.
  OU2  A connection that broke is not made again once `stop` was called: whoever listens at the
       address by then may be another boot.
  OU3  The connection that takes the HELLO is not taken for broken because of one before it.
  OU4  Who is refused for its key says so: ZeroMQ by itself would be silent, and never try again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq
from zmq.backend import Socket as PlainSocket

from service.dataflow.transport.base import BodyPart
from service.dataflow.transport.link import PeerAddress
from service.dataflow.transport.listener import ZERO_COPY_BYTES, event_of, set_common_options
from service.dataflow.transport.security import LinkSecurity
from service.errors import PeerLost

#: As numbers, and without the layer above it; see `listener`.
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_send = PlainSocket.send
#: Attempts to connect begin at 0.1 s and slow down to this, milliseconds.
_RECONNECT_MS_MAX = 1_000


class Outlet:
    """Owns the DEALER towards `address` and what watches its connection."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        security: LinkSecurity,
        address: PeerAddress,
        identity: bytes,
        heartbeat_ms: int,
    ) -> None:
        """Begin to connect.

        Raises:
            UsageError: the address is not safe under `security`.
            PeerLost: the address cannot be used at all.
        """
        endpoint = security.reach(str(address.slot), address.endpoint)
        self._address = address
        self._pieces: list[Any] = []
        #: Frames kept for the next message.
        self.kept = 0
        self.socket = context.socket(zmq.DEALER)
        set_common_options(self.socket, heartbeat_ms)
        self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS_MAX)
        security.prepare_link(self.socket, address.endpoint)
        self._monitor = self.socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self._endpoint: str | None = endpoint
        #: What the monitor has told and nobody was told yet.
        self._ended = self._refused = False
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise PeerLost(f"{address} cannot be connected to: {error.strerror}") from error

    def keep(self, header: bytes, parts: Sequence[BodyPart]) -> None:
        """Keep a frame for the next message."""
        self._pieces.append(header)
        self._pieces += parts
        self.kept += 1

    def hand_over(self) -> bool:
        """Send all that was kept as one message; False if it was not taken, and is gone (OU1).

        One message of several frames wakes those who send and receive it once.
        """
        pieces, self._pieces, self.kept = self._pieces, [], 0
        left = len(pieces)
        try:
            for piece in pieces:
                left -= 1
                flags = _MORE if left else _LAST
                _send(self.socket, piece, flags, copy=len(piece) < ZERO_COPY_BYTES)
        except zmq.Again:
            return False
        return True

    def greet(self, header: bytes, body: bytes) -> bool:
        """Send the HELLO; False if there is no connection (OU1, OU3)."""
        self._look()
        self.keep(header, (body,))
        taken = self.hand_over()
        if taken:
            self._ended = False
        return taken

    def broke(self) -> bool:
        """Whether a connection ended since the last call.

        Raises:
            PeerLost: the other side refuses our key (OU4).
        """
        self._look()
        if self._refused:
            raise PeerLost(
                f"{self._address} refuses the key of this process; "
                "list it in the file that links.allowed_file names there"
            )
        ended, self._ended = self._ended, False
        return ended

    def stop(self) -> None:
        """Give the connection up for good (OU2)."""
        if self._endpoint is not None:
            self.socket.disconnect(self._endpoint)
            self._endpoint = None

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what was handed over has `linger_ms` to leave."""
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close(linger=linger_ms)

    def _look(self) -> None:
        """Read what the monitor tells."""
        while self._monitor.poll(0):
            if event_of(self._monitor) == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._refused = True
            else:
                self._ended = True
