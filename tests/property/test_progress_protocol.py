"""Several processes run one random dataflow and exchange progress over slow channels.

A seeded scheduler interleaves everything: processes send, receive, take, downgrade and drop
capabilities; every (sender, receiver) channel delivers its encoded batches in order but at any
time, messages overtake one another and their own news. A tracker that is told of every action at
once is the truth. Checked:
  safety    whenever a process's frontiers move they are not ahead of the true ones;
  at rest   once every batch sent has arrived, every process has exactly the true frontiers,
            although capabilities are held and changes may still be buffered;
  liveness  when nobody wants to send any more, everything drains to nothing, buffers too.
Two mutants show that the checks bite: the rule as printed in the paper deadlocks, and a sender that
splits actions is unsafe. It cannot catch errors that the tracker shares with the truth; those are
test_progress_tracker.py's.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from typing import Self

import pytest

from service.dataflow.progress.broadcast import (
    ProgressBatch,
    ProgressReceiver,
    ProgressSender,
    decode_progress,
    encode_progress,
)
from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.timestamp import Timestamp, less_equal
from service.dataflow.progress.topology import FrozenTopology
from service.dataflow.progress.tracker import Tracker
from tests.property.test_progress_graphs import random_topology

START: Timestamp = (0,)


class EagerSender(ProgressSender):
    """Sends whatever there is at once: what accumulation is compared with."""

    def ready(self, tracker: Tracker) -> bool:
        return not self.is_empty


class PrintedRuleSender(ProgressSender):
    """Judges capabilities by the view of all processes, as the paper's text says. Deadlocks."""

    def ready(self, tracker: Tracker) -> bool:
        for (location, time), delta in self._buffer.items():
            net = tracker.pointstamps(location).get(time, 0) + delta
            if self._is_source[location] and net > 0:
                continue
            if not tracker.is_preceded(location, time):
                return True
        return False


class SplittingSender(EagerSender):
    """Sends decreases first and increases in a batch of their own. Unsafe."""

    def take(self, *, is_final: bool = False) -> ProgressBatch:
        changes = self._buffer.drain()
        kept = [change for change in changes if change[2] < 0] or changes
        self._buffer.extend(change for change in changes if change not in kept)
        self._sequence += 1
        return ProgressBatch(self._sequence - 1, tuple(kept))


class Process:
    """One process: its view, its mailboxes and the capabilities it holds."""

    def __init__(self, topology: FrozenTopology, sender: ProgressSender) -> None:
        self.tracker = Tracker(topology)
        self.sender = sender
        self.receiver = ProgressReceiver()
        #: (location of the input, time) of messages that have arrived.
        self.messages: list[tuple[int, Timestamp]] = []
        self.held: Counter[tuple[int, Timestamp]] = Counter()


class Cluster:
    """All processes, the channels between them, and the truth."""

    def __init__(self, seed: int, sender_type: type[ProgressSender]) -> None:
        self.random = random = Random(seed)
        self.topology = topology = random_topology(random, random.randint(4, 14))
        self.is_wanting = True
        #: Messages that may still be sent: what comes round a loop must end some time.
        self.sends_left = 100
        count = random.randint(2, 4)
        self.truth = Tracker(topology)
        self.processes = [Process(topology, sender_type(topology)) for _ in range(count)]
        self.channels: dict[tuple[int, int], deque[bytes]] = {
            (a, b): deque() for a in range(count) for b in range(count)
        }
        self.batches_sent = 0
        self.start()

    def start(self) -> None:
        """Every process knows that every process holds the first time at the graph's sources."""
        sources = [o.sources[0] for o in self.topology.operators if not o.targets]
        for tracker in (self.truth, *(process.tracker for process in self.processes)):
            for source in sources:
                tracker.update(source, START, len(self.processes))
            tracker.propagate()
        for process in self.processes:
            process.held.update((source, START) for source in sources)
            process.sender.assume((source, START, 1) for source in sources)

    def act(self, process: Process, changes: list[Change]) -> None:
        """One whole action: true at once, known to others when told."""
        for change in changes:
            self.truth.update(*change)
        self.truth.propagate()
        process.sender.record(changes)

    def send(self, source: int, time: Timestamp) -> list[Change]:
        """One message along every edge of an output, each to a random process."""
        changes = []
        for target, _ in self.topology.steps[source]:
            self.random.choice(self.processes).messages.append((target, time))
            changes.append((target, time, 1))
        self.sends_left -= 1
        return changes

    def later(self, time: Timestamp) -> Timestamp:
        """`time` or a little after it."""
        random = self.random
        place = random.randrange(len(time))
        step = random.choice((0, 0, 1, 2))
        moved = (*time[:place], time[place] + step, *time[place + 1 :])
        assert less_equal(time, moved)
        return moved

    def receive(self, process: Process) -> None:
        """Consume any message; answer on connected outputs and perhaps keep the right to."""
        random = self.random
        at = random.randrange(len(process.messages))
        target, time = process.messages.pop(at)
        changes: list[Change] = [(target, time, -1)]
        for source, summary in self.topology.steps[target]:
            result = summary.results_in(time)
            if self.sends_left > 0 and random.random() < 0.6:
                changes += self.send(source, self.later(result))
            if self.is_wanting and random.random() < 0.2:
                kept = self.later(result)
                process.held[source, kept] += 1
                changes.append((source, kept, 1))
        self.act(process, changes)

    def use(self, process: Process) -> None:
        """Send under a capability, move it on, or drop it."""
        random = self.random
        source, time = random.choice(sorted(process.held))
        changes: list[Change] = []
        if self.sends_left > 0 and random.random() < 0.6:
            changes += self.send(source, self.later(time))
        if not self.is_wanting or random.random() < 0.5:
            process.held -= Counter([(source, time)])
            changes.append((source, time, -1))
            if self.is_wanting and random.random() < 0.8:
                moved = self.later(time)
                process.held[source, moved] += 1
                changes.append((source, moved, 1))
        if changes:
            self.act(process, changes)

    def speak(self, process: Process) -> None:
        """Broadcast if the rule says so."""
        if not process.sender.ready(process.tracker):
            return
        me = self.processes.index(process)
        encoded = encode_progress(process.sender.take())
        for peer in range(len(self.processes)):
            self.channels[me, peer].append(encoded)
        self.batches_sent += len(self.processes) - 1

    def deliver(self, sender: int, receiver: int) -> None:
        """Deliver the next batch of a channel; safety is checked here."""
        process = self.processes[receiver]
        batch = decode_progress(self.channels[sender, receiver].popleft())
        for change in process.receiver.accept(sender, batch):
            process.tracker.update(*change)
        for location in process.tracker.propagate():
            view = process.tracker.frontier(location)
            for time in self.truth.frontier(location):
                assert view.less_equal(time), (
                    f"process {receiver} believes that {self.topology.describe(location)} is past "
                    f"{time}: {view}"
                )

    def deliverable(self) -> list[tuple[int, int]]:
        return [channel for channel, waiting in self.channels.items() if waiting]

    def step(self) -> None:
        """Let a random process do something, or a random channel deliver."""
        random = self.random
        channels = self.deliverable()
        if channels and random.random() < 0.6:
            channel = random.choice(channels)
            self.deliver(*channel)
            process = self.processes[channel[1]]
        else:
            process = random.choice(self.processes)
            if process.messages and random.random() < 0.7:
                self.receive(process)
            elif process.held:
                self.use(process)
        self.speak(process)

    def settle(self) -> None:
        """Deliver until everything said has been heard and nobody has anything to say."""
        while True:
            for process in self.processes:
                self.speak(process)
            channels = self.deliverable()
            if not channels:
                return
            self.deliver(*self.random.choice(channels))

    def assert_at_rest(self) -> None:
        for process in self.processes:
            for location in range(self.topology.location_count):
                assert process.tracker.frontier(location) == self.truth.frontier(location)

    def drain(self) -> None:
        """Nobody wants to send any more: receive everything, give everything up."""
        self.is_wanting = False
        self.sends_left = 0
        while any(process.messages or process.held for process in self.processes):
            self.step()
        self.settle()

    def assert_drained(self) -> None:
        assert self.truth.is_empty
        for process in self.processes:
            assert process.sender.is_empty
            assert process.tracker.is_empty

    def run(self) -> Self:
        """Act, come to rest and be checked three times; then drain."""
        for _ in range(3):
            for _ in range(60):
                self.step()
            self.settle()
            self.assert_at_rest()
        self.drain()
        self.assert_at_rest()
        self.assert_drained()
        return self


def run(seed: int, sender_type: type[ProgressSender] = ProgressSender) -> Cluster:
    return Cluster(seed, sender_type).run()


@pytest.mark.parametrize("seed", range(300))
def test_no_frontier_is_ever_ahead_and_everything_drains(seed: int) -> None:
    run(seed)


def test_accumulation_sends_far_fewer_batches_than_speaking_at_once() -> None:
    seeds = range(1000, 1040)
    held_back = sum(run(seed).batches_sent for seed in seeds)
    at_once = sum(run(seed, EagerSender).batches_sent for seed in seeds)
    assert held_back < at_once / 3, (held_back, at_once)


def test_rule_as_printed_in_the_paper_never_speaks() -> None:
    """Two processes give up their source: each sees the other's capability, so both are silent."""
    silent = 0
    for seed in range(20):
        cluster = Cluster(seed, PrintedRuleSender)
        cluster.drain()
        silent += not cluster.processes[0].tracker.is_empty and cluster.truth.is_empty
    assert silent == 20


def test_splitting_an_action_is_unsafe() -> None:
    """The safety check notices when an action's decreases travel before its increases."""
    unsafe = 0
    for seed in range(40):
        try:
            run(seed, SplittingSender)
        except AssertionError as error:
            unsafe += "is past" in str(error)
    assert unsafe >= 5
