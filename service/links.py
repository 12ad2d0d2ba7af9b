"""What a process asks of its links to the others, beyond what the engine asks of a Transport.

Flow: process -> bind, tell the endpoint on <app>.members -> generation names everybody -> start.
Over sockets it is a ZmqTransport; with `--local` it is an end of a network in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from service.config import LimitsConfig, LinksConfig
from service.dataflow.transport.base import Transport
from service.dataflow.transport.counters import TransportCounters
from service.dataflow.transport.link import LinkLimits, PeerAddress
from service.dataflow.transport.security import LoopbackOnly, TrustedNetwork
from service.dataflow.transport.zeromq import ZmqTransport
from service.ids import Slot


class Links(Transport, Protocol):
    """A Transport that begins with a generation."""

    def bind(self, address: str) -> str:
        """Listen at `address`; returns the endpoint that others connect to.

        Raises:
            UsageError: the address is taken, malformed or not safe.
        """
        ...

    def start(
        self, generation: int, index: int, observer: int, peers: Mapping[int, PeerAddress]
    ) -> None:
        """Begin `generation` as peer `index`, in the slot its entry names, and greet `peers`."""
        ...

    @property
    def connected(self) -> bool:
        """Whether every member has been greeted, both ways."""
        ...

    @property
    def counters(self) -> TransportCounters | None:
        """What went over sockets and what was refused; None where there are none."""
        ...

    @property
    def observed(self) -> bool:
        """Whether the observer is still there: it was greeted and its connection has not ended."""
        ...


#: What a member sends to the controller when it is asked to stop: only the controller stops a job.
STOP_ASKED: dict[str, object] = {"kind": "stop_asked"}


def socket_links(
    slot: Slot, incarnation: int, limits: LimitsConfig, links: LinksConfig
) -> ZmqTransport:
    """Sockets for one boot of `slot`."""
    return ZmqTransport(
        slot,
        incarnation,
        limits=LinkLimits(
            hello_timeout_ns=int(limits.start_timeout_s * 1e9),
            peer_timeout_ns=int(limits.peer_timeout_s * 1e9),
        ),
        security=TrustedNetwork() if links.trusted_network else LoopbackOnly(),
    )
