"""What a process asks of its links to the others, beyond what the engine asks of a Transport.

Flow: process -> bind, tell the endpoint on <app>.members -> generation names everybody -> start.
Over sockets it is a ZmqTransport; with `--local` it is an end of a network in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from service.config import LimitsConfig, LinksConfig
from service.dataflow.transport.base import Received, Transport
from service.dataflow.transport.counters import TransportCounters
from service.dataflow.transport.curve import CurveLinks
from service.dataflow.transport.keys import read_allowed, read_secret
from service.dataflow.transport.link import LinkLimits, PeerAddress
from service.dataflow.transport.security import LinkSecurity, LoopbackOnly, TrustedNetwork
from service.dataflow.transport.zeromq import ZmqTransport
from service.errors import ProtocolViolation, UsageError
from service.ids import Slot
from service.log import Log
from service.migration.records import DECODE_ERRORS


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


def report_of(frame: Received) -> dict[str, object]:
    """What a REPORT frame says.

    Raises:
        ProtocolViolation: it is no JSON object.
    """
    try:
        return msgspec.json.decode(bytes(frame.body), type=dict[str, object])
    except DECODE_ERRORS as error:
        raise ProtocolViolation(
            f"peer {frame.sender} sent a report that is none: {error}; the generation ends, start "
            "the job again"
        ) from error


def socket_links(
    slot: Slot, incarnation: int, limits: LimitsConfig, links: LinksConfig, log: Log
) -> ZmqTransport:
    """Sockets for one boot of `slot`.

    Raises:
        UsageError: the files of keys cannot be read.
    """
    return ZmqTransport(
        slot,
        incarnation,
        limits=LinkLimits(
            hello_timeout_ns=int(limits.start_timeout_s * 1e9),
            peer_timeout_ns=int(limits.peer_timeout_s * 1e9),
        ),
        security=security_of(links, log),
    )


def security_of(links: LinksConfig, log: Log) -> LinkSecurity:
    """What the knobs say protects the links; without any they stay on this machine.

    Raises:
        UsageError: one file of keys is missing or cannot be read.
    """
    if bool(links.key_file) is not bool(links.allowed_file):
        raise UsageError(
            "links.key_file and links.allowed_file belong together: a key to prove, and a list of "
            "those to trust; see docs/SECURITY.md"
        )
    if links.key_file:
        return CurveLinks(read_secret(Path(links.key_file)), read_allowed(Path(links.allowed_file)))
    if links.trusted_network:
        log.error(
            "links.unprotected",
            message="links are not encrypted and take anybody who reaches them, as "
            "links.trusted_network says; see docs/SECURITY.md for links with keys",
        )
        return TrustedNetwork()
    return LoopbackOnly()
