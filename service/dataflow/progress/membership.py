"""How a process that comes late learns what all others know about pointstamps.

Flow: answers of the peers to a subscription, their batches, one peer's view -> [Joiner] -> Tracker
and ProgressReceiver of a process like any other. Pure: who asks whom over what is the engine's.

A joiner cannot be told what each peer has contributed so far. A sender counts +1 and a receiver -1,
so no contribution ever cancels by itself: it grows as long as the job runs, and what those who have
left contributed nobody would tell. It is given one peer's *view*, where everything that is over has
cancelled, together with how far that view has heard each peer, and goes on from there with the
peers' own batches.

The steps:
  1. It subscribes to every peer. Q answers with the number m of its next batch and sends that one
     and all that follow.
  2. It asks one peer for its view, which has heard each Q up to some number n.
  3. If n >= m for every Q, nothing is missing in between: it takes the view, and of the batches it
     was sent those from n on. Otherwise it asks again later; n grows, m does not.

Until then it has no frontier, applies nothing and acts on nothing. The right it begins with was
counted for it by a member (`ProgressSender.grant`) before that member gave up its own: so all
frontiers wait for the newcomer, whenever it is ready.

Invariants
  JN1  Every change of every peer is in the view or in a batch taken, and in one of them only.
  JN2  A peer that has left need not have answered if the view has heard its final batch. One that
       left before it could be asked still counts for as long as the view expects more of it: its
       last batches go to those who heard it, and never to the newcomer.
  JN3  A joiner keeps the batches it cannot apply yet; what it keeps is what its peers sent since
       they answered.
  JN4  The right counted for it is strictly later than the one its granter holds at that place. Were
       it equal, the newcomer's giving it up could be heard before the granter's counting it, and
       cancel the granter's own.

Source: DESIGN §5 (joining). That per-peer sums do not work is shown there and, as a mutant, in
tests/property/test_progress_mutants.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.dataflow.progress.broadcast import ProgressReceiver
from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.progress_codec import ProgressBatch
from service.dataflow.progress.topology import FrozenTopology
from service.dataflow.progress.tracker import Tracker


@dataclass(frozen=True, slots=True)
class View:
    """What one process knows at a moment.

    Attributes:
        changes: counts that are not zero, as changes of an empty tracker.
        expected: {peer: number of its next batch}, for every peer the process hears.
        left: peers whose final batch it has heard.
    """

    changes: tuple[Change, ...]
    expected: Mapping[int, int]
    left: frozenset[int]


def view_of(tracker: Tracker, receiver: ProgressReceiver, peers: Iterable[int]) -> View:
    """The view of a process that hears `peers`; its tracker has propagated all it was told."""
    assert tracker.is_idle, "a view in the middle of a batch would be half an action"
    peers = tuple(peers)
    return View(
        tuple(tracker.changes()),
        {peer: receiver.expected(peer) for peer in peers},
        frozenset(peer for peer in peers if receiver.has_left(peer)),
    )


class Joiner:
    """One process on its way in. Owned by its loop."""

    __slots__ = ("_first", "_kept", "_peers", "_topology", "receiver", "tracker")

    def __init__(self, topology: FrozenTopology, peers: Iterable[int]) -> None:
        """Begin to join `peers`: all that are members or on their way in, and oneself."""
        self._topology = topology
        self._peers = set(peers)
        #: {peer: number of the first batch it sends us} (step 1).
        self._first: dict[int, int] = {}
        #: {peer: batches that came, in order} (JN3).
        self._kept: dict[int, list[ProgressBatch]] = {}
        #: What a member has; None until the view was taken.
        self.tracker: Tracker | None = None
        self.receiver: ProgressReceiver | None = None

    @property
    def kept(self) -> int:
        """Batches that wait for the view (JN3)."""
        return sum(map(len, self._kept.values()))

    def answered(self, peer: int, sequence: int) -> None:
        """Note that `peer`, known or new, sends us its batches from number `sequence` on."""
        self._peers.add(peer)
        self._first[peer] = sequence

    def take(self, peer: int, batch: ProgressBatch) -> None:
        """Keep a batch that came before the view.

        Raises:
            ProgressError: the peer has not answered, or a batch was lost or repeated.
        """
        if peer not in self._first:
            raise ProgressError(f"peer {peer} sent a batch before it answered the subscription")
        kept = self._kept.setdefault(peer, [])
        expected = self._first[peer] + len(kept)
        if batch.sequence != expected:
            raise ProgressError(
                f"peer {peer} sent progress batch {batch.sequence}, expected {expected}: "
                "progress was lost or repeated"
            )
        kept.append(batch)

    def install(self, view: View) -> bool:
        """Take a peer's view if nothing is missing between it and the batches (step 3, JN2).

        Returns:
            Whether it was taken; if so, `tracker` and `receiver` are those of a member.
        """
        assert self.tracker is None, "a view is taken once"
        for peer in (self._peers | view.expected.keys()) - view.left:
            first = self._first.get(peer)
            if first is None or view.expected.get(peer, 0) < first:
                return False
        self.tracker, self.receiver = Tracker(self._topology), ProgressReceiver()
        for change in view.changes:
            self.tracker.update(*change)
        for peer in self._peers | view.left:
            self.receiver.expect(peer, view.expected.get(peer, 0))
        for peer in view.left:
            self.receiver.note_left(peer)
        for peer, batches in self._kept.items():
            for batch in batches:
                for change in self.receiver.accept(peer, batch):
                    self.tracker.update(*change)
        self._kept.clear()
        self.tracker.propagate()
        return True
