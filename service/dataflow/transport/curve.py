"""Links that are encrypted and whose two ends prove their keys: ZeroMQ's CURVE with an allow-list.

Flow: ZmqTransport -> [CurveLinks] prepares its sockets; libzmq asks [Gatekeeper] about the key of
every connection (ZAP); Listener asks `may_be` whether that key may speak for the slot it names.

CURVE by itself only says that the other end has *some* key: without somebody who answers ZAP, any
key is accepted. A socket's identity is chosen by who connects, so it proves nothing either. And who
connects must know beforehand which key the listening socket has; so a process tells it with its
address, as `tcp://host:port#<public key>`, and the key counts only if the allow-list has it.

Invariants
  CU1  No message of a connection is read before its key was found in the allow-list: without an
       answer to ZAP a handshake fails, it does not pass.
  CU2  A message counts as sent by a slot only if the allow-list lets the connection's key be that
       slot. Else it counts as sent by nobody.
  CU3  A link is opened only to a key that the allow-list has for its slot; the handshake ends
       without a word of ours unless the other end has that key.
  CU4  The gatekeeper lives as long as the context of its sockets, in a thread that sleeps between
       handshakes; it reads the allow-list and touches nothing else.

Source: ZeroMQ RFC 25 (CURVE) and 27 (ZAP); libzmq 4.3.5.
"""

from __future__ import annotations

import threading
from typing import Final

import zmq

from service.dataflow.transport.frame import BODY_BYTES_MAX
from service.dataflow.transport.keys import Allowed, KeyPair
from service.dataflow.transport.link import KEY_MARK, parse_identity
from service.errors import UsageError

_ZAP: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"megaphone"
#: What encryption adds to a part of a message, rounded up.
_SEAL_BYTES: Final = 64
#: Answers of `may_be` kept; a job has a handful.
_KNOWN_MAX: Final = 10_000


class Gatekeeper:
    """Answers whether the key of a new connection is in the allow-list (CU1, CU4)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: Allowed) -> None:
        """Answer from now on until `context` ends."""
        self._allowed = allowed
        #: Connections refused. Writer: the gatekeeper's thread.
        self.refused = 0
        #: The key and address of the last one.
        self.last_refused = ""
        self._socket = context.socket(zmq.REP)
        self._socket.bind(_ZAP)
        threading.Thread(target=self._serve, name="gatekeeper", daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ContextTerminated:
            self._socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """The reply to a request of RFC 27."""
        version, number, _, address, _, mechanism, *credentials = request
        key = credentials[0].hex() if mechanism == b"CURVE" and credentials else ""
        if self._allowed.has(key):
            return [version, number, b"200", b"OK", key.encode(), b""]
        self.refused += 1
        self.last_refused = f"key {key or 'none'} from {address.decode(errors='replace')}"
        return [version, number, b"400", b"unknown key", b"", b""]


class CurveLinks:
    """Encrypts, and lets in only who the allow-list names; a LinkSecurity."""

    #: Whether a connection proves who it is.
    proves = True

    def __init__(self, pair: KeyPair, allowed: Allowed) -> None:
        """Prove to be the owner of `pair`, and talk to whom `allowed` lists."""
        self._pair = pair
        self._allowed = allowed
        self._gate: Gatekeeper | None = None
        #: Answers given, by (key, identity).
        self._known: dict[tuple[str, bytes], bool] = {}

    @property
    def refused(self) -> int:
        """Connections refused for their key."""
        return 0 if self._gate is None else self._gate.refused

    @property
    def last_refused(self) -> str:
        """Which key the last of them had, and where it came from."""
        return "" if self._gate is None else self._gate.last_refused

    def check(self, endpoint: str) -> None:
        """Listen anywhere."""

    def told(self, endpoint: str) -> str:
        """The endpoint with the key that whoever connects must expect there."""
        return f"{endpoint}{KEY_MARK}{self._pair.public}"

    def reach(self, slot: str, endpoint: str) -> str:
        """Where to connect to for `endpoint`, as its process told it (CU3).

        Raises:
            UsageError: it tells no key, or one that `slot` may not have.
        """
        where, _, key = endpoint.partition(KEY_MARK)
        if not key:
            raise UsageError(
                f"{slot} at {where} does not encrypt its links, this process does; give every "
                "process of the job a key (links.key_file)"
            )
        if not self._allowed.allows(key, slot):
            raise UsageError(
                f"{slot} at {where} has the key {key}, which {self._allowed.where} does not list "
                f"for it; if it is its key, add the line: {key} {slot}"
            )
        return where

    def prepare_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Let `socket` take encrypted connections of listed keys only."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, BODY_BYTES_MAX + _SEAL_BYTES)
        self._gate = Gatekeeper(socket.context, self._allowed)

    def prepare_link(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Let `socket` prove our key, and expect the one that `endpoint` tells."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(endpoint.partition(KEY_MARK)[2]))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(self._pair.public))
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret)

    def may_be(self, key: str, identity: bytes) -> bool:
        """Whether a connection that proved `key` may call itself `identity` (CU2)."""
        known = self._known.get((key, identity))
        if known is None:
            claimed = parse_identity(identity)
            known = claimed is not None and self._allowed.allows(key, str(claimed.slot))
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key, identity] = known
        return known
