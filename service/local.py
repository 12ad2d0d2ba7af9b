"""`megaphone run --local`: all roles of a job in one process and one thread.

Flow: controller, workers and gateways take turns -> frames through memory -> the same results,
moves and checkpoints as with processes. Sources, sinks and the job's topics are Kafka's as ever.

Invariants
  LO1  The shells are the ones that processes run; only their links differ.
  LO2  Nobody waits while a frame is on its way: a round in which one was sent is followed by
       another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from service.config import Config
from service.controller_process import ControllerProcess
from service.controller_start import ControllerOptions
from service.dataflow.flow import Flow
from service.dataflow.transport.base import Received
from service.dataflow.transport.link import PeerAddress
from service.dataflow.transport.memory import LinkName, MemoryNetwork, MemoryTransport
from service.errors import MegaphoneError
from service.ids import Membership
from service.ingest.registry import SchemaRegistry
from service.log import Log
from service.process import MemberProcess
from service.process_options import ProcessOptions
from service.stop_signals import StopSignals


class LocalNetwork(MemoryNetwork):
    """A network in memory that knows whether anything was sent."""

    def __init__(self, n_peers: int) -> None:
        """Connect `n_peers` members and an observer."""
        super().__init__(n_peers)
        self.moved = False

    def post(self, link: LinkName, received: Received) -> None:
        """Deliver at once, and note it (LO2)."""
        self.moved = True
        super().post(link, received)


class LocalLinks(MemoryTransport):
    """An end of a LocalNetwork, as processes use it: everybody is there from the start."""

    counters = None
    connected = True
    observed = True

    def bind(self, address: str) -> str:
        """Nothing to listen at; the name of this end."""
        return f"memory:{self.index}"

    def start(
        self, generation: int, index: int, observer: int, peers: Mapping[int, PeerAddress]
    ) -> None:
        """The network was made for the one generation that there is."""
        assert (index, observer) == (self.index, self.observer), "ends are dealt out in peer order"


class LocalJob:
    """One job's processes, taking turns."""

    def __init__(
        self,
        options: ControllerOptions,
        state_dir: Path,
        config: Config,
        flow: Flow,
        registry: SchemaRegistry,
    ) -> None:
        """Make all of them; see their constructors for what may be refused."""
        membership = Membership(options.workers, options.gateways)
        self._network = LocalNetwork(membership.peers)
        self._ends = [LocalLinks(self._network, index) for index in range(membership.peers + 1)]
        self._network.transports = tuple(self._ends)
        self._controller = ControllerProcess(
            options, config, flow, Log("controller"), links=self._ends[membership.peers]
        )
        self._members: list[MemberProcess] = []
        for peer in range(membership.peers):
            slot = membership.slot(peer)
            self._members.append(
                MemberProcess(
                    ProcessOptions(
                        options.bootstrap_servers, options.app, slot, state_dir, http_port=0
                    ),
                    config,
                    flow,
                    registry,
                    Log(str(slot)),
                    links=self._ends[peer],
                )
            )

    def run(self) -> None:
        """Run the job to its end.

        Raises:
            MegaphoneError: the job failed; the error says why and what to do.
        """
        processes: Sequence[ControllerProcess | MemberProcess] = [self._controller, *self._members]
        with StopSignals() as signals:
            try:
                while running := [each for each in processes if not each.ended]:
                    if self._controller.ended:
                        # Who takes part is ending already; who waits for a job waits for nothing.
                        for member in self._members:
                            member.ask_stop()
                    elif signals.asked:
                        self._controller.ask_stop()
                    self._network.moved = False
                    for process in running:
                        process.turn()
                    if not self._network.moved:
                        self._ends[0].wait(min(each.wait_s() for each in running))
            except MegaphoneError as error:
                for process in processes:
                    if not process.ended:
                        process.fail(error)
                raise
            finally:
                for process in processes:
                    process.close()


def run_local(
    options: ControllerOptions,
    state_dir: Path,
    config: Config,
    flow: Flow,
    registry: SchemaRegistry,
) -> None:
    """Run everything here.

    Raises:
        MegaphoneError: the job failed or could not begin.
    """
    LocalJob(options, state_dir, config, flow, registry).run()
