"""What protects the sockets between processes; the seam where CURVE keys will be set.

Flow: a ZmqTransport asks its LinkSecurity whether an address may be used at all, and lets it
prepare each socket before the socket binds or connects.

Invariants
  SE1  Without encryption a socket binds and connects only on loopback or ipc, unless the operator
       says that the network is trusted: ZeroMQ's default mechanism accepts anybody.
"""

from __future__ import annotations

from typing import Protocol

import zmq

from service.errors import UsageError

_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://")


class LinkSecurity(Protocol):
    """Prepares sockets; one object per process."""

    def check(self, endpoint: str) -> None:
        """Refuse endpoints that may not be used.

        Raises:
            UsageError: the endpoint is not safe under this security.
        """
        ...

    def prepare_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of the socket that others connect to."""
        ...

    def prepare_link(self, socket: zmq.Socket[bytes], slot: str) -> None:
        """Set the options of the socket that connects to `slot`."""
        ...


class LoopbackOnly:
    """No encryption, this machine only (SE1)."""

    def check(self, endpoint: str) -> None:
        """Refuse what is not loopback or ipc."""
        if not endpoint.startswith(_LOOPBACK):
            raise UsageError(
                f"{endpoint} is not on this machine and the links are not encrypted; use a "
                "loopback address, or declare the network trusted (links.trusted_network)"
            )

    def prepare_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Nothing to set."""

    def prepare_link(self, socket: zmq.Socket[bytes], slot: str) -> None:
        """Nothing to set."""


class TrustedNetwork(LoopbackOnly):
    """No encryption on any address: the operator isolates the network (a policy, a tunnel)."""

    def check(self, endpoint: str) -> None:
        """Accept every endpoint."""
