"""Protocols in which one rule is broken, as parts of the simulated cluster.

Each class takes one rule out and leaves the rest alone; its docstring says which. What they are run
on, what must be said of them and which sound protocol passes the same seeds is in
test_progress_mutants.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.broadcast import ProgressBatch, ProgressReceiver, ProgressSender
from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.membership import Joiner, View
from service.dataflow.progress.summary import PathSummary, egress, feedback, identity, ingress
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.topology import FrozenTopology, Topology
from service.dataflow.progress.tracker import Tracker
from tests.property.progress_cluster import Process
from tests.property.progress_elastic import Elastic, Watched

# When to speak, and what to say ------------------------------------------------------------------


class EagerSender(ProgressSender):
    """Sends whatever there is at once: sound, and what accumulation is compared with."""

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
        return ProgressBatch(self._sequence - 1, tuple(kept), is_final)


class ForgettingSender(ProgressSender):
    """Now and then loses a decrease."""

    def take(self, *, is_final: bool = False) -> ProgressBatch:
        batch = super().take(is_final=is_final)
        if batch.sequence % 7 == 3 and batch.changes and batch.changes[-1][2] < 0:
            return ProgressBatch(batch.sequence, batch.changes[:-1], batch.is_final)
        return batch


class ForgettingIncreases(ProgressSender):
    """Now and then loses an increase."""

    def take(self, *, is_final: bool = False) -> ProgressBatch:
        batch = super().take(is_final=is_final)
        if batch.sequence % 7 == 3 and batch.changes and batch.changes[0][2] > 0:
            return ProgressBatch(batch.sequence, batch.changes[1:], batch.is_final)
        return batch


# In which order to listen ------------------------------------------------------------------------


class OutOfOrder(ProgressReceiver):
    """Does not look at the numbers of batches."""

    def accept(self, peer: int, batch: ProgressBatch) -> tuple[Change, ...]:
        self._expected[peer] = batch.sequence
        self._final.discard(peer)
        return super().accept(peer, batch)


class Unnumbered(Elastic):
    """Nobody looks at numbers; sound, as links keep their order and nobody joins."""

    receiver_type = OutOfOrder
    joins_max = 0
    sends = 160
    keeps = 0.0


class Overtaking(Unnumbered):
    """Batches of one sender overtake one another, and receivers do not mind."""

    in_order = False


class OvertakingAndNoticed(Elastic):
    """Batches of one sender overtake one another, and receivers look at their numbers."""

    in_order = False
    joins_max = 0


# How to compare times ----------------------------------------------------------------------------


def component_wise(a: Timestamp, b: Timestamp) -> bool:
    """Counters one by one, not lexicographically: (e, 0, 5) is then not before (e, 1, 0)."""
    return all(x <= y for x, y in zip(a, b, strict=True))


class ComponentWiseAntichain(Antichain):
    """Minimal elements, and answers, by the component-wise order."""

    def __init__(self, elements: Iterable[Timestamp] = ()) -> None:
        times = sorted(set(elements))
        self._elements = tuple(
            t for t in times if not any(component_wise(s, t) and s != t for s in times)
        )

    def less_equal(self, time: Timestamp) -> bool:
        return any(component_wise(element, time) for element in self._elements)


class ComponentWiseAnswers(Tracker):
    """Knows the frontiers, and compares with them component by component."""

    def frontier(self, location: int) -> Antichain:
        return ComponentWiseAntichain(super().frontier(location))


#: An order's "every coordinate is large", to compare summaries by what they make of it.
_HUGE = 1 << 40


def minimal_summaries(topology: FrozenTopology, start: int) -> dict[int, PathSummary]:
    """From `start`, one minimal summary per place that it leads to, in the order of tuples."""
    huge = (_HUGE,) * topology.depths[start]
    best = {start: identity(topology.depths[start])}
    walk = [start]
    for at in walk:
        for to, does in topology.steps[at]:
            longer = best[at].followed_by(does)
            if to not in best or longer.results_in(huge) < best[to].results_in(huge):
                best[to] = longer
                walk.append(to)
    return best


class OneSummaryPerPair(Tracker):
    """Naiad's own algorithm: one minimal summary per pair of places, applied to all pointstamps.

    Sound, and independent of how the tracker propagates. Cost: O(pointstamps x locations) a call.
    """

    antichain: type[Antichain] = Antichain

    def __init__(self, topology: FrozenTopology) -> None:
        super().__init__(topology)
        count = topology.location_count
        self._summaries = [minimal_summaries(topology, start) for start in range(count)]
        self._views = [self.antichain() for _ in range(count)]

    def _active(self) -> list[tuple[int, Timestamp]]:
        return [(location, time) for location, time, count in self.changes() if count > 0]

    def propagate(self) -> list[int]:
        super().propagate()
        images: list[list[Timestamp]] = [[] for _ in self._views]
        for location, time in self._active():
            for to, summary in self._summaries[location].items():
                images[to].append(summary.results_in(time))
        before, self._views = self._views, [self.antichain(times) for times in images]
        return [at for at, view in enumerate(self._views) if view != before[at]]

    def frontier(self, location: int) -> Antichain:
        return self._views[location]

    def is_preceded(self, location: int, time: Timestamp) -> bool:
        return any(
            self.antichain([self._summaries[at][location].results_in(other)]).less_equal(time)
            for at, other in self._active()
            if (at, other) != (location, time) and location in self._summaries[at]
        )


class OneSummaryComponentWise(OneSummaryPerPair):
    """The same with counters compared component by component: one summary is then not enough."""

    antichain = ComponentWiseAntichain


def two_loops() -> FrozenTopology:
    """Source -> (head -> ((inner)) -> feedback) -> sink, each loop with one feedback."""
    graph = Topology()
    same, deep = {(0, 0): identity(2), (1, 0): identity(2)}, {(0, 0): identity(3)}
    source = graph.add_operator("source", 0, 1)
    enter = graph.add_operator("enter", 1, 1, ([1], [2]), {(0, 0): ingress(1)})
    head = graph.add_operator("head", 2, 1, 2, same)
    enter_2 = graph.add_operator("enter inner", 1, 1, ([2], [3]), {(0, 0): ingress(2)})
    inner = graph.add_operator("inner", 2, 1, 3, {**deep, (1, 0): identity(3)})
    again_2 = graph.add_operator("inner feedback", 1, 1, 3, {(0, 0): feedback(3)})
    leave_2 = graph.add_operator("leave inner", 1, 1, ([3], [2]), {(0, 0): egress(3)})
    again = graph.add_operator("feedback", 1, 1, 2, {(0, 0): feedback(2)})
    leave = graph.add_operator("leave", 1, 1, ([2], [1]), {(0, 0): egress(2)})
    sink = graph.add_operator("sink", 1, 0)
    chain = (source, enter, head, enter_2, inner, leave_2, leave, sink)
    for start, end in pairwise(chain):
        graph.connect((start, 0), (end, 0))
    graph.connect((inner, 0), (again_2, 0))
    graph.connect((again_2, 0), (inner, 1))
    graph.connect((leave_2, 0), (again, 0))
    graph.connect((again, 0), (head, 1))
    return graph.freeze()


class Pairs(Watched):
    """Everybody uses Naiad's own algorithm, in two nested loops in which nothing lingers."""

    tracker_type = OneSummaryPerPair
    sends = 160
    answers = 0.8
    keeps = 0.0

    def graph(self) -> FrozenTopology:
        return two_loops()

    def later(self, time: Timestamp) -> Timestamp:
        """Sources hurry on, so that what goes round is all that holds frontiers back."""
        return (time[0] + self.random.randint(1, 3),) if len(time) == 1 else super().later(time)

    def let_in(self, process: Process, joiner: Joiner) -> None:
        assert joiner.tracker is not None
        tracker = self.tracker_type(self.topology)
        for change in joiner.tracker.changes():
            tracker.update(*change)
        tracker.propagate()
        joiner.tracker = tracker
        super().let_in(process, joiner)


class ComponentWisePairs(Pairs):
    """Its frontiers have other elements than the truth's; only what they allow is judged."""

    tracker_type = OneSummaryComponentWise

    def assert_at_rest(self) -> None:
        assert self.links.is_empty


class ComponentWiseCluster(Pairs):
    tracker_type = ComponentWiseAnswers


class TwoLoops(Pairs):
    """The tracker of the product, in the same two loops."""

    tracker_type = Tracker


# How to join -------------------------------------------------------------------------------------


class GivenSums(Elastic):
    """Peers tell a newcomer what they contributed; nobody speaks for those who have left."""

    def __init__(self, seed: int, sender_type: type[ProgressSender] = ProgressSender) -> None:
        #: What each process ever sent, and what all knew of it: {(location, time): sum}.
        self.sums: dict[int, Counter[tuple[int, Timestamp]]] = {}
        super().__init__(seed, sender_type)
        for process in self.processes:
            self.sums[process.number] = Counter(process.held)

    def broadcast(self, process: Process, batch: ProgressBatch) -> None:
        sums = self.sums.setdefault(process.number, Counter())
        for location, time, delta in batch.changes:
            sums[location, time] += delta
        super().broadcast(process, batch)

    def show(self, newcomer: int) -> None:
        self.viewing.add(newcomer)
        total: Counter[tuple[int, Timestamp]] = Counter()
        for process in self.present():
            for key, count in self.sums.get(process.number, Counter()).items():
                total[key] += count
        changes = tuple((*key, count) for key, count in total.items() if count)
        expected = {process.number: process.sender.sequence for process in self.processes}
        teller = self.random.choice(self.present())
        self.links.put(teller.number, newcomer, View(changes, expected, frozenset(self.gone)))


class GivenSumsOfAll(GivenSums):
    """Nobody leaves: then the sums lack nothing."""

    may_leave = False


class Hasty(Joiner):
    """Takes the first view it is shown."""

    def install(self, view: View) -> bool:
        self._peers |= view.expected.keys()
        self._first = {peer: view.expected.get(peer, 0) for peer in self._peers}
        self._kept = {
            peer: [each for each in batches if each.sequence >= view.expected.get(peer, 0)]
            for peer, batches in self._kept.items()
        }
        return super().install(view)


class HastyNewcomers(Elastic):
    joiner_type = Hasty


class OnlyWhomItAsked(Joiner):
    """Thinks of those it could ask only: who was gone before may have said more since the view."""

    def install(self, view: View) -> bool:
        known = self._peers | view.left
        expected = {peer: number for peer, number in view.expected.items() if peer in known}
        return super().install(View(view.changes, expected, view.left))


class Replacing(Elastic):
    """Whoever leaves is often replaced at once."""

    replacements_max = 6


class NewcomersThatForgetWhoLeft(Replacing):
    joiner_type = OnlyWhomItAsked


class Ungranted(Elastic):
    """A newcomer brings a right that nobody counted for it before."""

    def admit(self) -> None:
        before = len(self.processes)
        super().admit()
        if len(self.processes) > before:
            newcomer = self.processes[-1]
            ((key, _),) = newcomer.held.items()
            for other in self.processes[:-1]:
                # The granter's news is lost; the newcomer tells it itself.
                buffered = dict(other.sender._buffer.items())
                if buffered.get(key, 0) > 0:
                    other.sender._buffer.update(*key, -1)
                    break
            newcomer.sender.record([(*key, 1)])


class GrantedTooEarly(Elastic):
    """A newcomer's right is at its granter's own time: given up, it cancels the granter's."""

    def granted_at(self, held: Timestamp) -> Timestamp:
        return held
