"""The simulated cluster whose processes come and go.

`Elastic` adds to `Cluster`: newcomers that subscribe, copy a view and go on from it, and members
that give everything up and leave. The checks are the same: no view is ever ahead of the truth, at
rest all views equal it, and everything drains, whoever came and went meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.dataflow.progress.broadcast import ProgressBatch, ProgressSender
from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.membership import Joiner, View, view_of
from service.dataflow.progress.timestamp import Timestamp
from tests.property.progress_cluster import ACTIONS_EACH, Cluster, Process
from tests.property.test_progress_graphs import frontier_by_walk

#: Number of the first batch that a peer will send to a newcomer.
Answer = int
Item = ProgressBatch | Answer | View


class Elastic(Cluster):
    """A cluster whose processes come and go."""

    joiner_type: type[Joiner] = Joiner
    may_leave = True
    joins_max = 2
    replacements_max = 1

    def __init__(self, seed: int, sender_type: type[ProgressSender] = ProgressSender) -> None:
        super().__init__(seed, sender_type)
        #: Processes on their way in, and whom they still have to ask.
        self.joining: dict[int, Joiner] = {}
        self.asked: dict[int, set[int]] = {}
        #: Processes that wait for a view they asked for.
        self.viewing: set[int] = set()
        self.leaving: set[int] = set()
        self.gone: set[int] = set()
        everyone = range(self.founders)
        self.heard_by = {peer: set(everyone) for peer in everyone}
        self.joins_left = self.random.randint(min(1, self.joins_max), self.joins_max)
        self.replacements = self.replacements_max if self.joins_max else 0
        self.joined = 0

    # Who is who ---------------------------------------------------------------------------------

    def present(self) -> list[Process]:
        joining, gone = self.joining, self.gone
        return [p for p in self.processes if p.number not in joining and p.number not in gone]

    def members(self) -> list[Process]:
        """Processes that act: neither on their way in nor out."""
        return [process for process in self.present() if process.number not in self.leaving]

    def targets(self) -> list[Process]:
        """Nobody sends to one that leaves; a newcomer's messages wait until it has a view."""
        return [*self.members(), *(self.processes[number] for number in self.joining)]

    def listeners(self, process: Process) -> Iterable[int]:
        return sorted(self.heard_by[process.number])

    def wants(self, process: Process) -> bool:
        """One that leaves keeps no rights."""
        return self.is_wanting and process.number not in self.leaving

    def is_behind(self, process: Process) -> bool:
        return process.actions < ACTIONS_EACH or process.number in self.leaving

    # Coming and going ---------------------------------------------------------------------------

    def admit(self) -> None:
        """A member that holds a right at a source counts a later one for a newcomer."""
        random = self.random
        granters = [
            (process, key)
            for process in self.members()
            for key in sorted(process.held)
            if key[0] in self.sources
        ]
        if not granters:
            return
        granter, (source, time) = random.choice(granters)
        granted: list[Change] = [(source, self.granted_at(time), 1)]
        self.truth.update(*granted[0])
        granter.sender.grant(granted)
        number = len(self.processes)
        newcomer = self.process(number)
        newcomer.sender.assume(granted)
        newcomer.held[granted[0][:2]] += 1
        self.processes.append(newcomer)
        peers = [peer for peer in range(number) if peer not in self.gone]
        self.joining[number] = self.joiner_type(self.topology, [*peers, number])
        self.joining[number].answered(number, 0)
        self.asked[number] = set(peers)
        # All others hear the newcomer from its first batch on; those on their way in are told so.
        self.heard_by[number] = {*peers, number}
        for other, joiner in self.joining.items():
            if other != number:
                joiner.answered(number, 0)

    def granted_at(self, held: Timestamp) -> Timestamp:
        """A time strictly later than the one its granter holds (JN4)."""
        return (held[0] + self.random.randint(1, 2),)

    def answer(self, newcomer: int, peer: int) -> None:
        """`peer` answers a subscription: from now on the newcomer hears it (step 1)."""
        self.asked[newcomer].discard(peer)
        if peer in self.gone or newcomer in self.heard_by[peer]:
            return
        self.heard_by[peer].add(newcomer)
        self.links.put(peer, newcomer, self.processes[peer].sender.sequence)

    def show(self, newcomer: int) -> None:
        """Some process with a view sends it (step 2)."""
        teller = self.random.choice(self.present())
        self.viewing.add(newcomer)
        everyone = range(len(self.processes))
        view = view_of(teller.tracker, teller.receiver, everyone)
        self.links.put(teller.number, newcomer, view)

    def help_newcomers(self) -> bool:
        """Answer a subscription or show a view; whether there was anything to do."""
        pending = sorted((new, peer) for new, peers in self.asked.items() for peer in peers)
        unseen = sorted(set(self.joining) - self.viewing)
        if pending and (not unseen or self.random.random() < 0.5):
            self.answer(*self.random.choice(pending))
        elif unseen:
            self.show(self.random.choice(unseen))
        else:
            return False
        return True

    def retire(self, process: Process) -> None:
        """A process that has nothing left says its last word; sometimes another takes its place."""
        self.heard_by[process.number].discard(process.number)
        self.broadcast(process, process.sender.leave())
        self.leaving.discard(process.number)
        self.gone.add(process.number)
        if self.is_wanting and self.replacements and self.random.random() < 0.5:
            # One that comes while the last word of another is still under way.
            self.replacements -= 1
            self.admit()

    def come_and_go(self) -> None:
        random = self.random
        dice = random.random()
        if dice < 0.02 and self.joins_left and self.is_wanting:
            self.joins_left -= 1
            self.admit()
        elif dice < 0.05 and self.may_leave and len(self.members()) > 2:
            # A founder does its share first; a newcomer may go at once.
            process = random.choice(self.members())
            if process.number >= self.founders or process.actions >= ACTIONS_EACH:
                self.leaving.add(process.number)
        elif dice < 0.20 and (self.joining or self.asked):
            self.help_newcomers()
        for number in sorted(self.leaving):
            process = self.processes[number]
            if not process.messages and not process.held and random.random() < 0.3:
                self.retire(process)

    # The cluster's steps ------------------------------------------------------------------------

    def step(self) -> None:
        self.come_and_go()
        super().step()

    def deliver(self) -> None:
        sender, receiver, item = self.links.take()
        if receiver in self.gone:
            return
        process = self.processes[receiver]
        joiner = self.joining.get(receiver)
        if joiner is None:
            # A view or an answer that comes when it is not needed any more is passed over.
            if isinstance(item, ProgressBatch):
                self.apply(process, sender, item)
                self.speak(process)
        elif isinstance(item, ProgressBatch):
            joiner.take(sender, item)
        elif isinstance(item, View):
            self.viewing.discard(receiver)
            if joiner.install(item):
                self.let_in(process, joiner)
        else:
            joiner.answered(sender, item)

    def let_in(self, process: Process, joiner: Joiner) -> None:
        assert joiner.tracker is not None
        assert joiner.receiver is not None
        process.tracker, process.receiver = joiner.tracker, joiner.receiver
        del self.joining[process.number]
        self.joined += 1
        self.assert_safe(process, range(self.topology.location_count))

    def settle(self) -> None:
        while True:
            super().settle()
            if not self.help_newcomers():
                break
        assert not self.joining


class Watched(Elastic):
    """After every step every view is compared, place by place, with a truth of its own making.

    That truth asks no tracker: it walks every path from every message and right there is, as the
    definition of could-result-in says. Slow, so for some schedules only.
    """

    def step(self) -> None:
        super().step()
        active = [key for process in self.processes for key in (*process.messages, *process.held)]
        truth = frontier_by_walk(self.topology, active)
        self.truth.propagate()
        for location, times in enumerate(truth):
            assert self.truth.frontier(location) == times
            for process in self.present():
                view = process.tracker.frontier(location)
                for time in times:
                    assert view.less_equal(time), self.ahead(process, location, time)
