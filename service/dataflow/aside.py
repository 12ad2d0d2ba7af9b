"""Bytes between the same operator of two processes that have no time: no frontier waits for them.

Flow: operator -> [Aside.send] -> ASIDE frame -> [Aside.pull] -> the same operator of the receiver.

Invariants
  AS1  What one process sends to another arrives in order, and before every message that it sends
       there afterwards, on whatever channel (TR1 of the transport).
  AS2  It counts no pointstamp and needs no capability: nothing can be concluded from its absence.
  AS3  It has a window of its own, so it takes no credit from rows and state. Who was refused room
       is stepped again when there is some.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from service.dataflow.credits import Credits
from service.dataflow.transport.base import BodyPart, Transport
from service.dataflow.transport.credit import CreditClass
from service.dataflow.transport.frame import FrameKind


class Said(NamedTuple):
    """What came from `sender`; `charge` is what its frame cost."""

    sender: int
    body: BodyPart
    charge: int


class Aside:
    """One operator's end, in one process."""

    def __init__(
        self,
        room: Callable[[int], bool],
        send: Callable[[int, bytes], None],
        consumed: Callable[[int, int], None],
    ) -> None:
        """Bind to the worker: room for a peer, sending to it, returning its credit."""
        #: Whether one more frame, of any size, may go to a peer (AS3).
        self.room = room
        #: Send bytes to another peer; there must be room.
        self.send = send
        self.queue: deque[Said] = deque()
        self._consumed = consumed

    def push(self, said: Said) -> None:
        """Queue what arrived; called by the worker."""
        self.queue.append(said)

    def pull(self) -> BodyPart | None:
        """Take the oldest body and return its credit; None if there is none."""
        if not self.queue:
            return None
        said = self.queue.popleft()
        self._consumed(said.sender, said.charge)
        return said.body


def aside_of(number: int, transport: Transport, account: Credits, refused: set[int]) -> Aside:
    """The end of operator `number`, which enters `refused` when there is no room for it (AS3)."""

    def room(peer: int) -> bool:
        if account.windows[peer, CreditClass.ASIDE].can_send():
            return True
        refused.add(number)
        return False

    def send(peer: int, body: bytes) -> None:
        account.spend(peer, CreditClass.ASIDE, len(body))
        transport.send(peer, FrameKind.ASIDE, number, (), [body])

    return Aside(room, send, account.consumer(CreditClass.ASIDE))
