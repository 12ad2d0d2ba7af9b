"""What a worker may still have under way to each peer, and what it owes them, by class.

Flow: the worker sends a frame -> [Credits.spend]; consumes one -> [Credits.consumer] -> CREDIT
frame; receives a CREDIT frame -> [Credits.give_back].

Invariants
  CD1  Every frame that costs credit is charged by the one formula on both sides (`charge_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from service.dataflow.transport.base import Received, Transport
from service.dataflow.transport.credit import (
    CreditClass,
    CreditReturns,
    CreditWindow,
    charge_of,
    decode_credit,
    encode_credit,
)
from service.dataflow.transport.frame import FrameKind
from service.errors import ProtocolViolation

_CLASSES = frozenset(int(kind) for kind in CreditClass)


class Credits:
    """Windows and returns of one worker, by (peer, class)."""

    def __init__(
        self, transport: Transport, others: Iterable[int], sizes: Mapping[CreditClass, int]
    ) -> None:
        """Begin with full windows of `sizes` bytes to all `others`."""
        self._transport = transport
        pairs = [(other, kind, size) for other in others for kind, size in sizes.items()]
        #: Credit this worker may still spend.
        self.windows = {(other, kind): CreditWindow(size) for other, kind, size in pairs}
        #: Credit this worker owes.
        self.returns = {(other, kind): CreditReturns(size) for other, kind, size in pairs}

    def spend(self, peer: int, credit: CreditClass, length: int) -> None:
        """Pay for a frame with a body of `length` bytes; the caller has asked for room."""
        taken = self.windows[peer, credit].try_take(charge_of(length))
        assert taken, "W3: an operator sends at most one message to each peer after `ready`"

    def amounts(self) -> dict[CreditClass, tuple[int, int]]:
        """Bytes under way to all peers, and bytes that may still go, by class."""
        found = dict.fromkeys(CreditClass, (0, 0))
        for (_, kind), window in self.windows.items():
            used, free = found[kind]
            found[kind] = (used + window.outstanding, free + window.available)
        return found

    def give_back(self, received: Received) -> CreditClass:
        """Take note of a CREDIT frame; returns its class.

        Raises:
            ProtocolViolation: there is no such class, or the peer returns what it was not sent.
        """
        if received.channel not in _CLASSES:
            raise ProtocolViolation(
                f"peer {received.sender} returned credit of class {received.channel}, "
                "which there is not"
            )
        credit = CreditClass(received.channel)
        self.windows[received.sender, credit].give_back(decode_credit(bytes(received.body)))
        return credit

    def consumer(self, credit: CreditClass) -> Callable[[int, int], None]:
        """What an input calls with (sender, charge) when it has consumed a frame of the class."""

        def consumed(sender: int, charge: int) -> None:
            amount = self.returns[sender, credit].consumed(charge)
            if amount:
                body = encode_credit(amount)
                self._transport.send(sender, FrameKind.CREDIT, credit.value, (), [body])

        return consumed
