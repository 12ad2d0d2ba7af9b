"""What protects the sockets between processes.

Flow: a ZmqTransport asks its LinkSecurity whether an address may be used at all, and lets it
prepare each socket before the socket binds or connects. `curve` has the one that encrypts.

Invariants
  SE1  Without encryption a socket binds and connects only on loopback or ipc, unless the operator
       says that the network is trusted: ZeroMQ's default mechanism accepts anybody.
  SE2  A process that encrypts and one that does not never talk: either refuses by name.
"""

from __future__ import annotations

from typing import Protocol

import zmq

from service.dataflow.transport.link import KEY_MARK
from service.errors import UsageError

_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://")


class LinkSecurity(Protocol):
    """Prepares sockets; one object per process."""

    @property
    def proves(self) -> bool:
        """Whether a connection proves a key, which `may_be` is then asked about."""
        ...

    @property
    def refused(self) -> int:
        """Connections refused for their key."""
        ...

    @property
    def last_refused(self) -> str:
        """Which key the last of them had, and where it came from."""
        ...

    def check(self, endpoint: str) -> None:
        """Refuse to listen at endpoints that may not be used.

        Raises:
            UsageError: the endpoint is not safe under this security.
        """
        ...

    def told(self, endpoint: str) -> str:
        """What others are told of the `endpoint` that the listening socket has."""
        ...

    def reach(self, slot: str, endpoint: str) -> str:
        """Where to connect to for the `endpoint` that `slot` told.

        Raises:
            UsageError: nobody is safe to talk to there under this security.
        """
        ...

    def prepare_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of the socket that others connect to."""
        ...

    def prepare_link(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Set the options of the socket that connects to an `endpoint` as it was told."""
        ...

    def may_be(self, key: str, identity: bytes) -> bool:
        """Whether a connection that proved `key` may call itself `identity`."""
        ...


class LoopbackOnly:
    """No encryption, this machine only (SE1)."""

    proves = False
    refused = 0
    last_refused = ""

    def check(self, endpoint: str) -> None:
        """Refuse what is not loopback or ipc."""
        if not endpoint.startswith(_LOOPBACK):
            raise UsageError(
                f"{endpoint} is not on this machine and the links are not encrypted; use a "
                "loopback address, give every process a key (links.key_file), or declare the "
                "network trusted (links.trusted_network)"
            )

    def told(self, endpoint: str) -> str:
        """Nothing but the endpoint."""
        return endpoint

    def reach(self, slot: str, endpoint: str) -> str:
        """The endpoint itself, if it is safe and not of a process that encrypts (SE2)."""
        where, _, key = endpoint.partition(KEY_MARK)
        if key:
            raise UsageError(
                f"{slot} at {where} encrypts its links and this process has no key; give it one "
                "(links.key_file)"
            )
        self.check(where)
        return where

    def prepare_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Nothing to set."""

    def prepare_link(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Nothing to set."""

    def may_be(self, key: str, identity: bytes) -> bool:
        """Nobody proves anything."""
        return True


class TrustedNetwork(LoopbackOnly):
    """No encryption on any address: the operator isolates the network (a policy, a tunnel)."""

    def check(self, endpoint: str) -> None:
        """Accept every endpoint."""
