"""Credits: how many bytes may be under way to a peer before it has consumed what came earlier.

Flow: before a DATA, STATE or ASIDE frame the sender takes its charge from the CreditWindow of
(peer, class); the receiver counts the charge in CreditReturns once it has consumed the rows, or has
put them into a store of its own, and gives it back in a CREDIT frame. Progress, control and
feedback edges take no credit: a circle of credits would deadlock.

Invariants
  CR1  0 <= outstanding < capacity + the largest charge: the last frame may overshoot, so that a
       frame larger than the window can still be sent, but only into a window not yet full.
  CR2  What was taken is given back once and no more; more raises ProtocolViolation.
  CR3  If everything taken was consumed, a full window is given back without any need to flush:
       returns are due at an eighth of the capacity, so a blocked sender always hears. `flush`
       is for latency of the last bytes, not for liveness.

Pure: no I/O, no clock. Source: Kung & Chapman's credit-based flow control; the batched returns are
those of Heron's RDMA channels.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from service.errors import ProtocolViolation

#: What a frame costs beside its body: header, part frames and Python objects on both sides.
FRAME_CHARGE: Final = 512
#: A return is due when this part of a window was consumed.
RETURN_FRACTION: Final = 8

_AMOUNT = struct.Struct("<Q")


class CreditClass(IntEnum):
    """Windows are per peer and class; the number is the channel of a CREDIT frame."""

    DATA = 1
    STATE = 2
    #: What has no time.
    ASIDE = 3


def charge_of(body_length: int) -> int:
    """What a frame with a body of `body_length` bytes costs; sender and receiver agree on it."""
    return body_length + FRAME_CHARGE


class CreditWindow:
    """The sender's side of one (peer, class)."""

    __slots__ = ("_capacity", "_outstanding")

    def __init__(self, capacity: int) -> None:
        """Let `capacity` bytes be under way (CR1)."""
        assert capacity > 0, "a window of no bytes never opens"
        self._capacity = capacity
        self._outstanding = 0

    @property
    def outstanding(self) -> int:
        """Bytes taken and not given back."""
        return self._outstanding

    @property
    def available(self) -> int:
        """Bytes until the window is full; 0 if it is."""
        return max(0, self._capacity - self._outstanding)

    def can_send(self) -> bool:
        """Whether one more frame, of any size, may go."""
        return self._outstanding < self._capacity

    def try_take(self, amount: int) -> bool:
        """Take `amount` bytes if the window is not full; False changes nothing (CR1)."""
        assert amount > 0, "every frame costs something: use charge_of"
        if self._outstanding >= self._capacity:
            return False
        self._outstanding += amount
        return True

    def give_back(self, amount: int) -> None:
        """Take note of a CREDIT frame.

        Raises:
            ProtocolViolation: the peer returns more than it was sent (CR2).
        """
        if not 0 < amount <= self._outstanding:
            raise ProtocolViolation(
                f"a peer returned {amount} bytes of credit while {self._outstanding} were under way"
            )
        self._outstanding -= amount


class CreditReturns:
    """The receiver's side of one (peer, class): collects small returns into few CREDIT frames."""

    __slots__ = ("_due_at", "_owed")

    def __init__(self, capacity: int) -> None:
        """Batch returns for a window of `capacity` bytes (CR3)."""
        assert capacity > 0, "a window of no bytes never opens"
        self._due_at = max(1, capacity // RETURN_FRACTION)
        self._owed = 0

    @property
    def owed(self) -> int:
        """Bytes consumed and not yet given back."""
        return self._owed

    def consumed(self, amount: int) -> int:
        """Count `amount` as consumed; returns the bytes to give back now, 0 if not yet due."""
        assert amount > 0, "every frame costs something: use charge_of"
        self._owed += amount
        return self.flush() if self._owed >= self._due_at else 0

    def flush(self) -> int:
        """Everything owed, to be given back now: call it when idle. 0 if nothing is."""
        owed, self._owed = self._owed, 0
        return owed


def encode_credit(amount: int) -> bytes:
    """The body of a CREDIT frame."""
    return _AMOUNT.pack(amount)


def decode_credit(body: bytes | memoryview) -> int:
    """Bytes given back by a CREDIT frame.

    Raises:
        ProtocolViolation: the body is no amount.
    """
    if len(body) != _AMOUNT.size:
        raise ProtocolViolation(f"a credit frame has {len(body)} bytes, expected {_AMOUNT.size}")
    amount: int = _AMOUNT.unpack(body)[0]
    return amount
