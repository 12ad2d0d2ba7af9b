"""The simulator of the progress protocol: processes, links of different speeds, one seed.

A seeded scheduler interleaves everything: processes send, receive, take, downgrade and drop
capabilities; every (sender, receiver) link has a speed of its own and delivers encoded batches in
order, each after a random delay; messages overtake one another and their own news. A tracker that
is told of every action at once is the truth. Checked:
  safety    whenever a process's frontiers move they are not ahead of the true ones, and nobody
            takes a message, or uses a right, at a time its own view believes to be over;
  at rest   once every batch sent has arrived, every process has exactly the true frontiers,
            although capabilities are held and changes may still be buffered;
  liveness  when nobody wants to send any more, everything drains to nothing, buffers too.

What it cannot catch: errors that the tracker shares with the truth. Those are
test_progress_tracker.py's, and `Watched`'s in progress_elastic.py, whose truth is computed from
messages and rights alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from heapq import heappop, heappush
from random import Random
from typing import Generic, Self, TypeVar

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
#: Actions of every process that a cluster begins with, before the cluster drains.
ACTIONS_EACH = 50
#: Mean delays of links, in actions of all processes; a link has one of them.
DELAYS = (0, 2, 5, 10, 40)
#: Steps after which a cluster that drains counts as stuck: twenty times the most seen.
DRAIN_STEPS_MAX = 20_000

Item = TypeVar("Item")


class Links(Generic[Item]):
    """What is under way between processes, in order per link unless told otherwise."""

    def __init__(self, random: Random, *, in_order: bool = True) -> None:
        self.random = random
        self.in_order = in_order
        self.now = 0.0
        #: Mean delay of every link that was used.
        self.delays: dict[tuple[int, int], int] = {}
        self._last: dict[tuple[int, int], float] = {}
        #: (arrival, number of the item, sender, receiver, item)
        self._arrivals: list[tuple[float, int, int, int, Item]] = []
        self._put = 0

    def put(self, sender: int, receiver: int, item: Item) -> None:
        link = (sender, receiver)
        if link not in self.delays:
            self.delays[link] = self.random.choice(DELAYS)
        arrival = self.now + 2 * self.delays[link] * self.random.random()
        if self.in_order:
            arrival = self._last[link] = max(arrival, self._last.get(link, 0.0))
        self._put += 1
        heappush(self._arrivals, (arrival, self._put, sender, receiver, item))

    @property
    def is_empty(self) -> bool:
        return not self._arrivals

    @property
    def is_due(self) -> bool:
        """Whether something has arrived by now."""
        return bool(self._arrivals) and self._arrivals[0][0] <= self.now

    def take(self) -> tuple[int, int, Item]:
        """The next (sender, receiver, item), waiting for it if it has not arrived."""
        arrival, _, sender, receiver, item = heappop(self._arrivals)
        self.now = max(self.now, arrival)
        return sender, receiver, item


class Process:
    """One process: its view, its mailbox and the capabilities it holds."""

    def __init__(self, number: int, tracker: Tracker, sender: ProgressSender, pace: int) -> None:
        self.number = number
        self.tracker = tracker
        self.sender = sender
        self.receiver = ProgressReceiver()
        #: (location of the input, time) of messages that have arrived.
        self.messages: list[tuple[int, Timestamp]] = []
        self.held: Counter[tuple[int, Timestamp]] = Counter()
        self.actions = 0
        #: How often it acts, beside others.
        self.pace = pace


class Cluster:
    """All processes, the links between them, and the truth."""

    tracker_type: type[Tracker] = Tracker
    receiver_type: type[ProgressReceiver] = ProgressReceiver
    in_order = True
    #: Messages in all.
    sends = 80
    #: How often a message is answered at an output, and how often the right to answer is kept.
    answers = 0.6
    keeps = 0.2

    def __init__(self, seed: int, sender_type: type[ProgressSender] = ProgressSender) -> None:
        self.random = random = Random(seed)
        self.sender_type = sender_type
        self.topology = self.graph()
        self.sources = [o.sources[0] for o in self.topology.operators if not o.targets]
        self.is_wanting = True
        #: Messages that may still be sent: what comes round a loop must end some time.
        self.sends_left = self.sends
        self.founders = random.choice((3, 3, 4))
        self.truth = Tracker(self.topology)
        self.processes = [self.process(number) for number in range(self.founders)]
        self.links: Links = Links(random, in_order=self.in_order)
        self.batches_sent = 0
        self.start()

    def graph(self) -> FrozenTopology:
        """The dataflow that runs."""
        return random_topology(self.random, self.random.choice((4, 5, 7, 9)))

    def process(self, number: int) -> Process:
        sender = self.sender_type(self.topology)
        process = Process(
            number, self.tracker_type(self.topology), sender, self.random.choice((1, 2, 4))
        )
        process.receiver = self.receiver_type()
        return process

    def start(self) -> None:
        """Every process knows that every process holds the first time at the graph's sources."""
        for tracker in (self.truth, *(process.tracker for process in self.processes)):
            for source in self.sources:
                tracker.update(source, START, len(self.processes))
            tracker.propagate()
        for process in self.processes:
            process.held.update((source, START) for source in self.sources)
            process.sender.assume((source, START, 1) for source in self.sources)

    # What a process does ------------------------------------------------------------------------

    def act(self, process: Process, changes: list[Change]) -> None:
        """One whole action: true at once, known to others when told."""
        for change in changes:
            self.truth.update(*change)
        process.sender.record(changes)
        process.actions += 1

    def targets(self) -> list[Process]:
        """Whom a message may go to."""
        return self.processes

    def send(self, source: int, time: Timestamp) -> list[Change]:
        """One message along every edge of an output, each to a random process."""
        changes = []
        targets = self.targets()
        for target, _ in self.topology.steps[source]:
            self.random.choice(targets).messages.append((target, time))
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

    def wants(self, process: Process) -> bool:
        """Whether it takes new rights and keeps old ones."""
        return self.is_wanting

    def receive(self, process: Process) -> None:
        """Consume any message; answer on connected outputs and perhaps keep the right to."""
        random = self.random
        at = random.randrange(len(process.messages))
        target, time = process.messages.pop(at)
        self.assert_not_over(process, target, time)
        changes: list[Change] = [(target, time, -1)]
        for source, summary in self.topology.steps[target]:
            result = summary.results_in(time)
            if self.sends_left > 0 and random.random() < self.answers:
                changes += self.send(source, self.later(result))
            if random.random() < self.keeps and self.wants(process):
                kept = self.later(result)
                process.held[source, kept] += 1
                changes.append((source, kept, 1))
        self.act(process, changes)

    def use(self, process: Process) -> None:
        """Send under a capability, move it on, or drop it; one that wants keeps its last."""
        random = self.random
        wants = self.wants(process)
        source, time = random.choice(sorted(process.held))
        self.assert_not_over(process, source, time)
        changes: list[Change] = []
        if wants and self.sends_left > 0 and random.random() < 0.4:
            changes += self.send(source, self.later(time))
        if not wants or random.random() < 0.6:
            is_last = process.held.total() == 1
            process.held -= Counter([(source, time)])
            changes.append((source, time, -1))
            if wants and (is_last or random.random() < 0.8):
                moved = self.later(time)
                process.held[source, moved] += 1
                changes.append((source, moved, 1))
        if changes:
            self.act(process, changes)

    def speak(self, process: Process) -> None:
        """Broadcast if the rule says so."""
        while process.sender.ready(process.tracker):
            self.broadcast(process, process.sender.take())

    def listeners(self, process: Process) -> Iterable[int]:
        """Who hears its batches, itself included."""
        return range(len(self.processes))

    def broadcast(self, process: Process, batch: ProgressBatch) -> None:
        # What arrives is what was encoded; all receivers share one decoding of it.
        batch = decode_progress(encode_progress(batch))
        for peer in self.listeners(process):
            self.links.put(process.number, peer, batch)
        self.batches_sent += 1

    # What happens to it -------------------------------------------------------------------------

    def deliver(self) -> None:
        """Let the next item arrive."""
        sender, receiver, item = self.links.take()
        self.apply(self.processes[receiver], sender, item)
        self.speak(self.processes[receiver])

    def apply(self, process: Process, sender: int, batch: ProgressBatch) -> None:
        for change in process.receiver.accept(sender, batch):
            process.tracker.update(*change)
        self.assert_safe(process, process.tracker.propagate())

    # Checks -------------------------------------------------------------------------------------

    def assert_safe(self, process: Process, locations: Iterable[int]) -> None:
        """The process's view of `locations` is not ahead of the truth.

        True frontiers only advance, so that a view that did not change need not be checked again.
        """
        self.truth.propagate()
        for location in locations:
            view = process.tracker.frontier(location)
            for time in self.truth.frontier(location):
                assert view.less_equal(time), self.ahead(process, location, time)

    def ahead(self, process: Process, location: int, time: Timestamp) -> str:
        return (
            f"process {process.number} believes that {self.topology.describe(location)} is past "
            f"{time}: {process.tracker.frontier(location)}"
        )

    def assert_not_over(self, process: Process, location: int, time: Timestamp) -> None:
        view = process.tracker.frontier(location)
        assert view.less_equal(time), f"{self.ahead(process, location, time)}, and has it here"

    def assert_at_rest(self) -> None:
        self.truth.propagate()
        for process in self.present():
            for location in range(self.topology.location_count):
                found = process.tracker.frontier(location)
                assert found == self.truth.frontier(location), (process.number, location)

    def assert_drained(self) -> None:
        assert self.truth.is_empty
        for process in self.present():
            assert process.sender.is_empty
            assert process.tracker.is_empty

    # The schedule -------------------------------------------------------------------------------

    def present(self) -> list[Process]:
        """Processes that have a view."""
        return self.processes

    def pick(self) -> Process:
        """Who acts next: mostly one that has not acted often enough."""
        present = self.present()
        if not self.is_wanting:
            busy = [process for process in present if process.messages or process.held]
            return self.random.choice(busy or present)
        if self.random.random() < 0.9:
            behind = [process for process in present if self.is_behind(process)]
            if behind:
                return self.random.choices(behind, [process.pace for process in behind])[0]
        return self.random.choice(present)

    def is_behind(self, process: Process) -> bool:
        return process.actions < ACTIONS_EACH

    def step(self) -> None:
        """Let what is due arrive, or let a process do something."""
        if self.links.is_due:
            self.deliver()
            return
        self.links.now += 1
        process = self.pick()
        if process.messages and self.random.random() < 0.7:
            self.receive(process)
        elif process.held:
            self.use(process)
        self.speak(process)

    def settle(self) -> None:
        """Deliver until everything said has been heard and nobody has anything to say."""
        while True:
            for process in self.present():
                self.speak(process)
            if self.links.is_empty:
                return
            self.deliver()

    def work(self, share: float) -> None:
        """Act until each founder has done its `share` of the actions, or all have in sum."""
        goal = int(ACTIONS_EACH * share)
        while True:
            founders = [process.actions for process in self.processes[: self.founders]]
            if min(founders) >= goal or (share < 1 and sum(founders) >= goal * self.founders):
                return
            self.step()

    def drain(self) -> None:
        """Nobody wants to send any more: receive everything, give everything up."""
        self.is_wanting = False
        self.sends_left = 0
        left = DRAIN_STEPS_MAX
        while any(process.messages or process.held for process in self.processes):
            left -= 1
            assert left, "it never drains"
            self.step()
        self.settle()

    def run(self) -> Self:
        """Act, come to rest and be checked three times; then drain."""
        for share in (0.3, 0.7, 1.0):
            self.work(share)
            self.settle()
            self.assert_at_rest()
        self.drain()
        self.assert_at_rest()
        self.assert_drained()
        return self
