"""How a gateway or worker leaves after a stop: cut, tell, wait for the farewell.

Flow: Member complete -> [Departure]: checkpoint files, outputs acknowledged -> CheckpointedReport
-> controller -> manifest -> the controller's BYE -> old checkpoints removed -> gone.

Invariants
  DP1  Positions are told only when Kafka has every result and every dead letter of what they cover.
  DP2  It is over only after the controller's BYE, which follows the durable manifest: until then
       the job may have to go on from the checkpoint before.
  DP3  Meanwhile pulses go out, and a controller that is gone is noticed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from service.dataflow.transport.frame import FrameKind
from service.edges import KafkaEdges
from service.errors import PeerLost
from service.links import Links
from service.member import Member
from service.migration.reports import PeerReport
from service.slot_folder import SlotFolder
from service.statestore.checkpoint import SlotFiles

_TICK_EVERY_NS = 20_000_000


class Departure:
    """One member's way from its completion to its end."""

    def __init__(
        self,
        member: Member,
        edges: KafkaEdges,
        folder: SlotFolder,
        links: Links,
        send: Callable[[PeerReport], None],
        deadline_ns: int,
    ) -> None:
        """Begin to write the checkpoint of a complete member; `send` takes the report of it."""
        assert member.control.stop is not None, "only a stop completes a member"
        self.cut = member.control.stop.at
        self._member = member
        self._edges = edges
        self._folder = folder
        self._links = links
        self._send = send
        self._deadline_ns = deadline_ns
        self._next_tick_ns = 0
        self._files: Future[SlotFiles | None] | None = folder.write(member, self.cut)

    def turn(self, now_ns: int) -> bool:
        """Do what is due; whether everything is done.

        Raises:
            PeerLost: the controller is gone, or it took too long.
            BrokerError: an output or a dead letter was not stored.
            StateError: the disk refused.
        """
        if self._files is not None:
            self._cut(self._files)
        elif self._farewell():
            self._folder.prune()
            self._links.leave()
            return True
        if now_ns >= self._next_tick_ns:
            self._links.tick(now_ns)
            self._next_tick_ns = now_ns + _TICK_EVERY_NS
        expect_controller(self._links)
        if now_ns > self._deadline_ns:
            raise PeerLost(f"the checkpoint at {self.cut} was not recorded in time after the stop")
        return False

    def _cut(self, files: Future[SlotFiles | None]) -> None:
        """Once files and outputs are stored, tell this process's part (DP1)."""
        self._edges.producer.poll()
        if not files.done() or self._edges.unstored:
            return
        written = files.result()
        self._edges.check_stored()
        sources = self._member.sources
        self._edges.commit_final({name: source.positions for name, source in sources.items()})
        self._send(self._member.cuts.at_stop(self.cut, written))
        self._files = None

    def _farewell(self) -> bool:
        """Whether the controller has said that the checkpoint is recorded (DP2)."""
        observer = self._links.observer
        frames = self._links.receive(1000)
        return any(each.kind is FrameKind.BYE and each.sender == observer for each in frames)


def expect_controller(links: Links) -> None:
    """See that the controller is there, when only it can bring the stop to its end.

    Raises:
        PeerLost: it is not.
    """
    if not links.observed:
        raise PeerLost(
            "the controller was lost before it recorded the checkpoint of the stop; start the job "
            "again to go on from the newest one that is recorded"
        )
