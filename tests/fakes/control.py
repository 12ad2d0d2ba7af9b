"""A process's control source in a test's hand: the log is what the test says, record by record."""

from __future__ import annotations

from collections.abc import Sequence

from service.ids import Membership
from service.migration.control_source import ControlSource
from service.migration.horizon import LogFollower
from service.migration.records import (
    Generation,
    LogRecord,
    Move,
    Promise,
    SlotBinding,
    Stop,
)
from service.migration.routing_table import RoutingTable
from tests.fakes.ports import Ports

FIRST = 10
HORIZON = 100
#: A location whose frontier stays at the beginning unless a test moves it.
READER = 7


def generation(
    owners: Sequence[int] = (0, 1), workers: int = 2, gateways: int = 1, horizon: int = HORIZON
) -> Generation:
    """A generation from epoch FIRST on, each gateway with one partition of `events`."""
    members = Membership(workers, gateways)
    return Generation(
        clock=0,
        generation=1,
        horizon=horizon,
        first_epoch=FIRST,
        bins=len(owners),
        workers=workers,
        gateways=gateways,
        slots=[
            SlotBinding(slot=str(members.slot(peer)), incarnation="1", address="")
            for peer in range(members.peers)
        ],
        bin_owners=list(owners),
        sink_owners=list(range(workers)),
        partition_owners={"events": list(range(gateways))},
        positions={"events": [0] * gateways},
        manifest=None,
        until_end=False,
    )


def move(at: int, *moves: tuple[int, int]) -> Move:
    """A wave of (bin, worker) at `at`."""
    return Move(at=at, request="r", wave=1, waves=1, moves=list(moves), clock=FIRST)


def promise(horizon: int) -> Promise:
    """No command below `horizon` any more."""
    return Promise(horizon=horizon, clock=FIRST)


def stop(at: int) -> Stop:
    """The last command."""
    return Stop(at=at, drain=False, clock=FIRST)


class ControlHand:
    """A control source on its own ports, and the table and follower it shares."""

    def __init__(self, began: Generation | None = None) -> None:
        """Follow the generation `began`."""
        began = began if began is not None else generation()
        self.table = RoutingTable.of(began)
        self.follower = LogFollower(began)
        self.source = ControlSource(self.follower, self.table)
        self.ports = Ports(
            self.source, inputs=0, outputs=1, paths=[], holds=[0], start=(began.first_epoch,)
        )
        # Stands for F and S, which a test steps by itself: they may ask for any epoch.
        self.source.readers.append(READER)
        self.ports.step()

    def read(self, *records: LogRecord) -> None:
        """Read records of the log, each followed by a step."""
        for record in records:
            self.source.feed(record)
            self.ports.step()
