"""Processes join and leave while a random dataflow runs, over slow channels, with the same checks.

`Elastic` adds to the cluster of test_progress_protocol.py: newcomers that subscribe, copy a view
and go on from it, and members that give everything up and go. As there, a tracker that is told of
every action at once is the truth: no member's frontier is ever ahead of it, at rest all members
have exactly its frontiers, and everything drains. Mutants show that the checks bite.

`MEGAPHONE_PROGRESS_SEEDS` sets how many schedules run; `make sim` raises it.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable

import pytest

from service.dataflow.progress.broadcast import (
    ProgressBatch,
    ProgressReceiver,
    ProgressSender,
    decode_progress,
    encode_progress,
)
from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.membership import Joiner, View, view_of
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.topology import FrozenTopology
from service.dataflow.progress.tracker import Tracker
from tests.property.test_progress_protocol import Cluster, PrintedRuleSender, Process

SEEDS = int(os.environ.get("MEGAPHONE_PROGRESS_SEEDS", "5000"))
#: Seeds of which at least one must catch a mutant.
MUTANT_SEEDS = 60

#: What travels from one process to another.
Answer = tuple[str, int]
Item = bytes | Answer | View


class Elastic(Cluster):
    """A cluster whose processes come and go."""

    joiner_type: type[Joiner] = Joiner
    may_leave = True

    def __init__(self, seed: int, sender_type: type[ProgressSender] = ProgressSender) -> None:
        self.sender_type = sender_type
        #: Processes on their way in, and whom they still have to ask.
        self.joining: dict[int, Joiner] = {}
        self.asked: dict[int, set[int]] = {}
        #: Processes that wait for a view they asked for.
        self.viewing: set[int] = set()
        self.leaving: set[int] = set()
        self.gone: set[int] = set()
        super().__init__(seed, sender_type)
        #: Who hears each process.
        everyone = range(len(self.processes))
        self.listeners = {peer: set(everyone) for peer in everyone}
        self.items: dict[tuple[int, int], deque[Item]] = {}
        self.joins_left = 3
        self.joined = 0

    # Coming and going ---------------------------------------------------------------------------

    def members(self) -> list[int]:
        """Processes that act: neither on their way in nor out."""
        return [peer for peer in self.present() if peer not in self.leaving]

    def present(self) -> list[int]:
        """Processes that have a view."""
        everyone = range(len(self.processes))
        return [peer for peer in everyone if peer not in self.joining and peer not in self.gone]

    def admit(self) -> None:
        """A member that holds a right at a source counts a later one for a newcomer."""
        random = self.random
        sources = {shape.sources[0] for shape in self.topology.operators if not shape.targets}
        granters = [
            (peer, key)
            for peer in self.members()
            for key in sorted(self.processes[peer].held)
            if key[0] in sources
        ]
        if not granters:
            return
        granter, (source, time) = random.choice(granters)
        granted: list[Change] = [(source, self.granted_at(time), 1)]
        self.truth.update(*granted[0])
        self.truth.propagate()
        self.processes[granter].sender.grant(granted)
        number = len(self.processes)
        process = Process(self.topology, self.sender_type(self.topology))
        process.sender.assume(granted)
        process.held[granted[0][:2]] += 1
        self.processes.append(process)
        peers = [peer for peer in range(number) if peer not in self.gone]
        self.joining[number] = self.joiner_type(self.topology, [*peers, number])
        self.joining[number].answered(number, 0)
        self.asked[number] = set(peers)
        # All others hear the newcomer from its first batch on; those on their way in are told so.
        self.listeners[number] = {*peers, number}
        for other, joiner in self.joining.items():
            if other != number:
                joiner.answered(number, 0)
        self.joins_left -= 1

    def granted_at(self, held: Timestamp) -> Timestamp:
        """A time strictly later than the one its granter holds (JN4)."""
        return (held[0] + self.random.randint(1, 2),)

    def answer(self, newcomer: int, peer: int) -> None:
        """`peer` answers a subscription: from now on the newcomer hears it (step 1)."""
        self.asked[newcomer].discard(peer)
        if peer in self.gone or newcomer in self.listeners[peer]:
            return
        self.listeners[peer].add(newcomer)
        self.put(peer, newcomer, ("from", self.processes[peer].sender.sequence))

    def show(self, newcomer: int) -> None:
        """Some process with a view sends it (step 2)."""
        peer = self.random.choice(self.present())
        process = self.processes[peer]
        self.viewing.add(newcomer)
        everyone = range(len(self.processes))
        self.put(peer, newcomer, view_of(process.tracker, process.receiver, everyone))

    def retire(self, peer: int) -> None:
        """A process that has nothing left says its last word."""
        process = self.processes[peer]
        encoded = encode_progress(process.sender.leave())
        for listener in sorted(self.listeners[peer] - {peer}):
            self.put(peer, listener, encoded)
        self.leaving.discard(peer)
        self.gone.add(peer)
        for channel in [channel for channel in self.items if channel[1] == peer]:
            del self.items[channel]

    def put(self, sender: int, receiver: int, item: Item) -> None:
        if receiver not in self.gone:
            self.items.setdefault((sender, receiver), deque()).append(item)

    # The cluster's actions ----------------------------------------------------------------------

    def send(self, source: int, time: Timestamp) -> list[Change]:
        """Nobody sends to one that leaves; a newcomer's messages wait until it has a view."""
        targets = [*self.members(), *self.joining]
        changes = []
        for target, _ in self.topology.steps[source]:
            to = self.random.choice(targets)
            self.processes[to].messages.append((target, time))
            changes.append((target, time, 1))
        self.sends_left -= 1
        return changes

    def speak(self, process: Process) -> None:
        if not process.sender.ready(process.tracker):
            return
        me = self.processes.index(process)
        encoded = encode_progress(process.sender.take())
        for peer in sorted(self.listeners[me]):
            self.put(me, peer, encoded)
        self.batches_sent += len(self.listeners[me]) - 1

    def deliver(self, sender: int, receiver: int) -> None:
        item = self.items[sender, receiver].popleft()
        joiner = self.joining.get(receiver)
        if joiner is not None:
            self.deliver_early(joiner, sender, receiver, item)
        elif isinstance(item, bytes):
            self.apply(receiver, sender, decode_progress(item))

    def deliver_early(self, joiner: Joiner, sender: int, receiver: int, item: Item) -> None:
        if isinstance(item, View):
            self.viewing.discard(receiver)
            if joiner.install(item):
                process = self.processes[receiver]
                assert joiner.tracker is not None
                assert joiner.receiver is not None
                process.tracker, process.receiver = joiner.tracker, joiner.receiver
                del self.joining[receiver]
                self.joined += 1
                self.check_safety(receiver, range(self.topology.location_count))
        elif isinstance(item, bytes):
            joiner.take(sender, decode_progress(item))
        else:
            joiner.answered(sender, item[1])

    def apply(self, receiver: int, sender: int, batch: ProgressBatch) -> None:
        process = self.processes[receiver]
        for change in process.receiver.accept(sender, batch):
            process.tracker.update(*change)
        self.check_safety(receiver, process.tracker.propagate())

    def check_safety(self, receiver: int, locations: Iterable[int]) -> None:
        for location in locations:
            view = self.processes[receiver].tracker.frontier(location)
            for time in self.truth.frontier(location):
                assert view.less_equal(time), (
                    f"process {receiver} believes that {self.topology.describe(location)} is past "
                    f"{time}: {view}"
                )

    def deliverable(self) -> list[tuple[int, int]]:
        return sorted(channel for channel, waiting in self.items.items() if waiting)

    def pending(self) -> list[tuple[int, int]]:
        """Subscriptions not answered, as (newcomer, peer)."""
        return sorted((new, peer) for new, peers in self.asked.items() for peer in peers)

    def help_newcomers(self) -> bool:
        """Answer a subscription or show a view; whether there was anything to do."""
        pending = self.pending()
        unseen = sorted(set(self.joining) - self.viewing)
        if pending and (not unseen or self.random.random() < 0.5):
            self.answer(*self.random.choice(pending))
        elif unseen:
            self.show(self.random.choice(unseen))
        else:
            return False
        return True

    def step(self) -> None:
        random = self.random
        dice = random.random()
        if dice < 0.02 and self.joins_left and self.is_wanting:
            self.admit()
        elif dice < 0.03 and self.may_leave and len(self.members()) > 2:
            self.leaving.add(random.choice(self.members()))
        elif dice < 0.10:
            self.help_newcomers()
        for peer in sorted(self.leaving):
            process = self.processes[peer]
            if not process.messages and not process.held and random.random() < 0.3:
                self.retire(peer)
        channels = self.deliverable()
        if channels and random.random() < 0.6:
            channel = random.choice(channels)
            self.deliver(*channel)
            speaker = channel[1]
        else:
            speaker = random.choice(self.present())
            process = self.processes[speaker]
            if process.messages and random.random() < 0.7:
                self.receive(process)
            elif process.held:
                self.use(process)
        if speaker not in self.joining and speaker not in self.gone:
            self.speak(self.processes[speaker])

    def use(self, process: Process) -> None:
        """One that leaves gives up what it holds instead."""
        if self.processes.index(process) not in self.leaving:
            super().use(process)
            return
        key = self.random.choice(sorted(process.held))
        process.held -= Counter([key])
        self.act(process, [(*key, -1)])

    def receive(self, process: Process) -> None:
        """One that leaves keeps no rights."""
        wanting = self.is_wanting
        self.is_wanting = wanting and self.processes.index(process) not in self.leaving
        super().receive(process)
        self.is_wanting = wanting

    def settle(self) -> None:
        while True:
            for peer in self.present():
                self.speak(self.processes[peer])
            channels = self.deliverable()
            if channels:
                self.deliver(*self.random.choice(channels))
            elif not self.help_newcomers():
                return

    def assert_at_rest(self) -> None:
        assert not self.joining
        for peer in self.present():
            for location in range(self.topology.location_count):
                found = self.processes[peer].tracker.frontier(location)
                assert found == self.truth.frontier(location), (peer, location)

    def drain(self) -> None:
        self.is_wanting = False
        self.sends_left = 0
        left = 20_000
        while any(process.messages or process.held for process in self.processes):
            left -= 1
            assert left, "it never drains"
            if self.joining:
                self.help_newcomers()
            self.step()
        self.settle()

    def assert_drained(self) -> None:
        assert self.truth.is_empty
        for peer in self.present():
            assert self.processes[peer].sender.is_empty
            assert self.processes[peer].tracker.is_empty


@pytest.mark.parametrize("block", range(10))
def test_who_joins_and_leaves_changes_no_frontier_and_everything_drains(block: int) -> None:
    joined = left = 0
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        try:
            cluster = Elastic(seed).run()
        except Exception as error:  # whatever it was, the seed belongs to it
            error.add_note(f"seed {seed}")
            raise
        joined += cluster.joined
        left += len(cluster.gone)
    assert joined > SEEDS / 20
    assert left > SEEDS / 20


class ForgettingSender(ProgressSender):
    """Now and then loses a decrease."""

    def take(self, *, is_final: bool = False) -> ProgressBatch:
        batch = super().take(is_final=is_final)
        if batch.sequence % 7 == 3 and batch.changes and batch.changes[-1][2] < 0:
            return ProgressBatch(batch.sequence, batch.changes[:-1], batch.is_final)
        return batch


class GivenSums(Elastic):
    """Peers tell a newcomer what they contributed; nobody speaks for those who have left."""

    def __init__(self, seed: int, sender_type: type[ProgressSender] = ProgressSender) -> None:
        #: What each process ever sent: {(location, time): sum}.
        self.sums: dict[int, Counter[tuple[int, Timestamp]]] = {}
        super().__init__(seed, sender_type)
        for source, time in self.processes[0].held:
            for peer in range(len(self.processes)):
                self.sums.setdefault(peer, Counter())[source, time] += 1

    def put(self, sender: int, receiver: int, item: Item) -> None:
        if isinstance(item, bytes) and receiver == min(self.listeners[sender] - {sender}):
            for location, time, delta in decode_progress(item).changes:
                self.sums.setdefault(sender, Counter())[location, time] += delta
        super().put(sender, receiver, item)

    def show(self, newcomer: int) -> None:
        self.viewing.add(newcomer)
        total: Counter[tuple[int, Timestamp]] = Counter()
        for peer in self.present():
            for key, count in self.sums.get(peer, Counter()).items():
                total[key] += count
        changes = tuple((*key, count) for key, count in total.items() if count)
        expected = {peer: process.sender.sequence for peer, process in enumerate(self.processes)}
        teller = self.random.choice(self.present())
        self.put(teller, newcomer, View(changes, expected, frozenset(self.gone)))


class Hasty(Joiner):
    """Takes the first view it is shown."""

    def install(self, view: View) -> bool:
        self._first = {peer: view.expected.get(peer, 0) for peer in self._peers}
        self._kept = {
            peer: [each for each in batches if each.sequence >= view.expected.get(peer, 0)]
            for peer, batches in self._kept.items()
        }
        return super().install(view)


class HastyNewcomers(Elastic):
    joiner_type = Hasty


class Ungranted(Elastic):
    """A newcomer brings a right that nobody counted for it before."""

    def admit(self) -> None:
        before = len(self.processes)
        super().admit()
        if len(self.processes) > before:
            process = self.processes[-1]
            ((key, _),) = process.held.items()
            for other in self.processes[:-1]:
                # The granter's news is lost; the newcomer tells it itself.
                buffered = dict(other.sender._buffer.items())
                if buffered.get(key, 0) > 0:
                    other.sender._buffer.update(*key, -1)
                    break
            process.sender.record([(*key, 1)])


class GrantedTooEarly(Elastic):
    """A newcomer's right is at its granter's own time: given up, it cancels the granter's."""

    def granted_at(self, held: Timestamp) -> Timestamp:
        return held


class OutOfOrder(ProgressReceiver):
    """Does not look at the numbers of batches."""

    def accept(self, peer: int, batch: ProgressBatch) -> tuple[Change, ...]:
        self._expected[peer] = batch.sequence
        return super().accept(peer, batch)


class Overtaking(Elastic):
    """Batches of one sender overtake one another, and receivers do not mind."""

    def __init__(self, seed: int, sender_type: type[ProgressSender] = ProgressSender) -> None:
        super().__init__(seed, sender_type)
        self.joins_left = 0
        for process in self.processes:
            process.receiver = OutOfOrder()

    def put(self, sender: int, receiver: int, item: Item) -> None:
        super().put(sender, receiver, item)
        waiting = self.items.get((sender, receiver))
        if waiting and len(waiting) > 1 and self.random.random() < 0.5:
            waiting[-1], waiting[-2] = waiting[-2], waiting[-1]


MUTANTS: dict[str, tuple[type[Elastic], type[ProgressSender], str]] = {
    "a decrease is lost": (Elastic, ForgettingSender, ""),
    "batches overtake one another": (Overtaking, ProgressSender, "is past"),
    "the rule as printed decides when to speak": (Elastic, PrintedRuleSender, ""),
    "a newcomer is given per-peer sums": (GivenSums, ProgressSender, ""),
    "a newcomer takes any view": (HastyNewcomers, ProgressSender, ""),
    "a newcomer's right was not counted before": (Ungranted, ProgressSender, "is past"),
    "a newcomer's right is no later than its granter's": (
        GrantedTooEarly,
        ProgressSender,
        "is past",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_protocol_in_which_something_is_wrong_is_caught(name: str) -> None:
    cluster_type, sender_type, message = MUTANTS[name]
    caught = 0
    for seed in range(MUTANT_SEEDS):
        try:
            cluster_type(seed, sender_type).run()
        except (AssertionError, ProgressError) as error:
            caught += message in str(error)
    assert caught, f"{name}: none of {MUTANT_SEEDS} seeds noticed"


class GivenSumsOfAll(GivenSums):
    """Nobody leaves: then the sums lack nothing."""

    may_leave = False


def test_per_peer_sums_are_wrong_for_those_who_left_and_only_for_them() -> None:
    """So the mutant above is caught for what it stands for."""
    assert sum(GivenSumsOfAll(seed).run().joined for seed in range(MUTANT_SEEDS)) > MUTANT_SEEDS


def topology() -> FrozenTopology:
    return Elastic(0).topology


def test_a_view_that_lacks_batches_we_were_not_sent_is_not_taken() -> None:
    graph = topology()
    joiner = Joiner(graph, [0, 1])
    joiner.answered(0, 5)
    view = View((), {0: 5, 1: 3}, frozenset())
    assert not joiner.install(view), "peer 1 has not answered"
    joiner.answered(1, 4)
    assert not joiner.install(view), "batch 3 of peer 1 is in neither"
    assert joiner.install(View((), {0: 7, 1: 4}, frozenset()))
    assert joiner.receiver is not None
    assert [joiner.receiver.expected(peer) for peer in (0, 1)] == [7, 4]


def test_batches_from_before_the_view_are_dropped_and_later_ones_applied() -> None:
    graph = topology()
    source = next(shape.sources[0] for shape in graph.operators if not shape.targets)
    joiner = Joiner(graph, [0])
    joiner.answered(0, 2)
    for number in (2, 3, 4):
        joiner.take(0, ProgressBatch(number, ((source, (number,), 1),), False))
    assert joiner.kept == 3
    assert joiner.install(View(((source, (2,), 1), (source, (3,), 1)), {0: 4}, frozenset()))
    assert joiner.tracker is not None
    assert joiner.tracker.pointstamps(source) == {(2,): 1, (3,): 1, (4,): 1}
    assert joiner.kept == 0


def test_a_peer_that_left_need_not_have_answered() -> None:
    joiner = Joiner(topology(), [0, 1])
    joiner.answered(0, 0)
    assert joiner.install(View((), {0: 0, 1: 9}, frozenset({1})))
    assert joiner.receiver is not None
    assert joiner.receiver.has_left(1)


def test_a_lost_batch_and_one_before_the_answer_are_errors() -> None:
    joiner = Joiner(topology(), [0])
    with pytest.raises(ProgressError, match="before it answered the subscription"):
        joiner.take(0, ProgressBatch(0, (), False))
    joiner.answered(0, 4)
    with pytest.raises(ProgressError, match="sent progress batch 5, expected 4"):
        joiner.take(0, ProgressBatch(5, (), False))


def test_who_holds_a_right_cannot_leave() -> None:
    sender = ProgressSender(topology())
    sender.assume([(0, (5,), 1)])
    with pytest.raises(ProgressError, match=r"holds 1 capabilities at \(5,\) of location 0"):
        sender.leave()


def test_a_view_is_of_whole_batches_only() -> None:
    tracker = Tracker(topology())
    tracker.update(0, (5,) * tracker.topology.depths[0], 1)
    with pytest.raises(AssertionError, match="half an action"):
        view_of(tracker, ProgressReceiver(), [])


def test_a_schedule_is_the_same_every_time() -> None:
    first, second = Elastic(11).run(), Elastic(11).run()
    assert first.joined > 0
    assert (first.batches_sent, first.joined, first.gone) == (
        second.batches_sent,
        second.joined,
        second.gone,
    )
