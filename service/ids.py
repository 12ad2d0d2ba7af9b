"""Names of the parts of a job: slots, peers, incarnations, generations.

A *slot* is the stable logical identity (`worker-0`); a *process* hosts it; an *incarnation* is one
boot of that process; a *generation* is one dataflow built from one set of incarnations. Three owner
tables (bins, sink groups, partitions) name slots, never processes.

Invariants
  I1  Within a generation, peer w < W is worker slot w; peer W + g is gateway slot g.
  I2  `worker-any` and `gateway-any` are no slots: a process is called so until a generation gives
      it one. No owner table, file or frame ever names them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from service.errors import UsageError


class Role(StrEnum):
    """What a process does in a job."""

    CONTROLLER = "controller"
    GATEWAY = "gateway"
    WORKER = "worker"


_SLOT = re.compile(r"(worker|gateway)-(\d{1,5})")
#: The ordinal of who takes any slot (I2).
_ANY = -1


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A stable logical identity: a role and its ordinal; the controller's ordinal is 0."""

    role: Role
    ordinal: int

    @classmethod
    def parse(cls, text: str) -> Slot:
        """Read `worker-3`, `gateway-0` or `controller`.

        Raises:
            UsageError: the text names no slot.
        """
        if text == Role.CONTROLLER:
            return cls(Role.CONTROLLER, 0)
        match = _SLOT.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is no slot; expected worker-N, gateway-N or controller")
        return cls(Role(match[1]), int(match[2]))

    @classmethod
    def any_of(cls, role: Role) -> Slot:
        """In the place of a slot, what a process is called that takes any of its role's (I2)."""
        return cls(role, _ANY)

    @property
    def is_any(self) -> bool:
        """Whether no slot has been given yet (I2)."""
        return self.ordinal == _ANY

    def __str__(self) -> str:
        if self.role is Role.CONTROLLER:
            return self.role
        return f"{self.role}-any" if self.is_any else f"{self.role}-{self.ordinal}"


@dataclass(frozen=True, slots=True)
class Membership:
    """The members of one generation's dataflow: `workers` and `gateways` by count."""

    workers: int
    gateways: int

    @property
    def peers(self) -> int:
        """Number of processes in the dataflow; the controller is none of them."""
        return self.workers + self.gateways

    def peer(self, slot: Slot) -> int:
        """Index of a member slot (I1)."""
        if slot.role is Role.WORKER and 0 <= slot.ordinal < self.workers:
            return slot.ordinal
        if slot.role is Role.GATEWAY and 0 <= slot.ordinal < self.gateways:
            return self.workers + slot.ordinal
        raise UsageError(
            f"slot {slot} is no member of a job with {self.workers} workers "
            f"and {self.gateways} gateways"
        )

    def slot(self, peer: int) -> Slot:
        """The slot of a peer index (I1)."""
        if peer < self.workers:
            return Slot(Role.WORKER, peer)
        return Slot(Role.GATEWAY, peer - self.workers)
