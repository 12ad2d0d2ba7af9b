"""Which timestamps can still appear at each port, from signed counts of pointstamps.

Flow: changes of all processes -> [Tracker.update, propagate] -> frontiers -> operators, probes.
Pure: no I/O, no clock. Every process has one; those that saw the same changes answer alike.

A pointstamp (location, time) is a message in flight at an input port or a capability at an output
port. It could result in (l, t) if some path leads from it to l and turns its time into one <= t.
The frontier at l holds the minimal times that any pointstamp with a positive count could result in
there, its own included: nothing earlier will ever be seen at l.

Each location has a multiset `own` that counts its pointstamps. What is implied there follows from
own's frontier and, per step that leads here, from the images of the frontier of the step's start.
Locations are settled in topological order, all changes of one together, so outside loops each is
visited at most once; no path is ever searched.

A *plain* location is on no cycle and has times of one number. Times are then in one order, the
frontier is one time, and it is computed anew: the least of own's and of the images of those before
it. Elsewhere a second multiset, `implied`, counts the elements of own's frontier and all images;
*its* frontier is the answer, and a change of a frontier is passed on as signed counts. Inside a
cyclic component single changes are settled in order of (time, location): cycles strictly advance,
hence what a removed time held up around the cycle is removed level by level before anything later
is looked at, and the work ends at the latest time that was implied before.

Invariants
  TR1  After `propagate`: implied(l) = own(l).frontier + sum over steps s -> l of their summary
       applied to implied(s).frontier, as multisets; at a plain location its least time alone is
       kept. Because cycles advance, only the could-result-in frontier satisfies this.
  TR2  Only positive counts imply anything: a count may be negative until the news of the sending
       arrives, and is then covered by what the sender still holds.
  TR3  What `update` is given changes no answer before `propagate`, so a batch is atomic.
  TR4  Cost is proportional to the locations whose counts change; an idle operator costs nothing.

Cost: about 0.6 us per plain location reached by a change, others some 2 us.

Source: Murray et al., "Naiad", SOSP 2013, section 2.3; timely-dataflow, `progress/reachability.rs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from service.dataflow.progress.antichain import Antichain, MutableAntichain, TimeChange
from service.dataflow.progress.change_batch import Change
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import PathSummary, identity
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.topology import FrozenTopology

#: The frontier of a plain location where nothing can appear: after all times.
_NEVER: Timestamp = (1 << 63,)


class Tracker:
    """Frontiers of every location of one graph."""

    __slots__ = (
        "_agenda",
        "_entered",
        "_feeders",
        "_implied",
        "_least",
        "_only",
        "_own",
        "_pending",
        "_single",
        "_steps",
        "_topology",
        "_updates",
        "_version",
        "_views",
    )

    def __init__(self, topology: FrozenTopology) -> None:
        """Start without any pointstamp: every frontier is empty."""
        count = topology.location_count
        self._topology = topology
        #: Per location: (next location, summary or None for the identity, next in own component).
        self._steps = [_compile_steps(topology, location) for location in range(count)]
        #: Per component: its location, -1 if it is a cycle; and the inverse.
        self._only = [
            -1 if cyclic else members[0]
            for members, cyclic in zip(topology.components, topology.is_cyclic, strict=True)
        ]
        self._single = [
            -1 if topology.is_cyclic[component] else component
            for component in topology.component_of
        ]
        #: Per plain location: where steps to it begin, and their summaries or None for the
        #: identity; None of all others.
        self._feeders = [_compile_feeders(topology, location) for location in range(count)]
        #: Per plain location: the only element of its frontier, or _NEVER; and that as handed out,
        #: None if not asked for since it last changed.
        self._least: list[Timestamp] = [_NEVER] * count
        self._views: list[Antichain | None] = [None] * count
        #: Per location: counts of pointstamps.
        self._own = [MutableAntichain() for _ in range(count)]
        #: Per location that is not plain: counts of implied times (TR1).
        self._implied = [MutableAntichain() for _ in range(count)]
        #: {location: changes of pointstamp counts not yet propagated} (TR3).
        self._updates: dict[int, list[TimeChange]] = {}
        #: {location: changes of implied counts not yet applied, none of a plain location that is to
        #: be computed anew}; empty between calls.
        self._pending: dict[int, Sequence[TimeChange]] = {}
        #: {cyclic component: its locations with pending changes}; empty between calls.
        self._entered: dict[int, list[int]] = {}
        #: Heap of components with pending changes, each once; empty between calls.
        self._agenda: list[int] = []
        self._version = 0

    @property
    def topology(self) -> FrozenTopology:
        """The graph that is tracked."""
        return self._topology

    @property
    def version(self) -> int:
        """A number that grows whenever `propagate` had anything to apply."""
        return self._version

    @property
    def is_idle(self) -> bool:
        """Whether every update has been propagated."""
        return not self._updates

    @property
    def is_empty(self) -> bool:
        """Whether no pointstamp has a count other than zero: the dataflow is complete.

        Cost: O(locations).
        """
        return not self._updates and all(own.is_empty for own in self._own)

    def update(self, location: int, time: Timestamp, delta: int) -> None:
        """Add `delta` to the count of a pointstamp; takes effect at `propagate` (TR3).

        Raises:
            ProgressError: no such location, or a time of the wrong depth for it.
        """
        depths = self._topology.depths
        if not 0 <= location < len(depths) or len(time) != depths[location]:
            raise ProgressError(f"{time} is not a timestamp of location {location}")
        changes = self._updates.get(location)
        if changes is None:
            self._updates[location] = [(time, delta)]
        else:
            changes.append((time, delta))

    def propagate(self) -> list[int]:
        """Apply all updates.

        Returns:
            The locations whose frontier is not what it was before the call, in topological order.
        """
        if not self._updates:
            return []
        updates, self._updates = self._updates, {}
        self._version += 1
        for location, changes in updates.items():
            moved = self._own[location].update(changes)
            if moved:
                self._enqueue(location, moved)
        changed: list[int] = []
        # One call a location would cost as much as the rest of the work: locations on no cycle are
        # settled here.
        agenda, pending, only = self._agenda, self._pending, self._only
        feeders, single = self._feeders, self._single
        while agenda:
            component = heappop(agenda)
            location = only[component]
            if location < 0:
                self._settle_cycle(self._entered.pop(component), changed)
                continue
            implied = pending.pop(location)
            if feeders[location] is None:
                moved = self._implied[location].update(implied)
            else:
                moved = self._compute(location)
            if not moved:
                continue
            changed.append(location)
            for to, summary, _ in self._steps[location]:
                if feeders[to] is None:
                    self._enqueue(to, moved if summary is None else _images(summary, moved))
                elif to not in pending:
                    pending[to] = ()
                    heappush(agenda, single[to])
        return changed

    def _compute(self, location: int) -> Sequence[TimeChange]:
        """The frontier of a plain location anew; what it lost and gained."""
        own = self._own[location].elements()
        new = own[0] if own else _NEVER
        least, all_feeders = self._least, self._feeders
        for start, summary in all_feeders[location] or ():
            time = least[start] if all_feeders[start] is not None else self._first(start)
            if summary is not None and time is not _NEVER:
                # Monotone (PS2), and only the epoch is left: the first one's image is the least.
                time = summary.results_in(time)
            if time < new:
                new = time
        old = least[location]
        if new == old:
            return ()
        least[location] = new
        self._views[location] = None
        if old is _NEVER:
            return ((new, 1),)
        return ((old, -1),) if new is _NEVER else ((old, -1), (new, 1))

    def _first(self, location: int) -> Timestamp:
        """The element of smallest epoch of a frontier that is not plain; _NEVER if it is empty."""
        elements = self._implied[location].elements()
        return elements[0] if elements else _NEVER

    def frontier(self, location: int) -> Antichain:
        """Minimal times that may still appear at `location`, as of the last `propagate`."""
        if self._feeders[location] is None:
            return self._implied[location].frontier
        view = self._views[location]
        if view is None:
            view = self._views[location] = Antichain(self._elements(location))
        return view

    def _elements(self, location: int) -> tuple[Timestamp, ...]:
        """The elements of a frontier, ascending."""
        if self._feeders[location] is None:
            return self._implied[location].elements()
        least = self._least[location]
        return () if least is _NEVER else (least,)

    def pointstamps(self, location: int) -> dict[Timestamp, int]:
        """Net counts at `location`, not zero, possibly negative, as of the last `propagate`."""
        return self._own[location].counts()

    def changes(self) -> list[Change]:
        """All counts that are not zero, as changes that give a new tracker the same view."""
        return [
            (location, time, count)
            for location, own in enumerate(self._own)
            for time, count in own.counts().items()
        ]

    def holders(self, location: int) -> list[tuple[int, Timestamp]]:
        """The earliest pointstamps that hold the frontier of `location` where it is, ascending.

        The answer to "what is this port waiting for?": each could result in an element of the
        frontier, each element has one, and others that could are preceded by one of these on their
        way. Found by walking back along TR1; times strictly fall around cycles, so the walk ends.

        Cost: O(locations + edges); for people and error messages, not for every step.
        """
        before: list[list[tuple[int, PathSummary | None]]] = [[] for _ in self._steps]
        for start, steps in enumerate(self._steps):
            for to, summary, _ in steps:
                before[to].append((start, summary))
        walk = [(location, time) for time in self._elements(location)]
        seen = set(walk)
        for at, time in walk:
            for start, summary in before[at]:
                for cause in self._elements(start):
                    image = cause if summary is None else summary.results_in(cause)
                    if image == time and (start, cause) not in seen:
                        seen.add((start, cause))
                        walk.append((start, cause))
        return sorted(key for key in seen if self._own[key[0]].count(key[1]) > 0)

    def is_preceded(self, location: int, time: Timestamp) -> bool:
        """Whether a pointstamp other than (location, time) could result in (location, time)."""
        feeders = self._feeders[location]
        if feeders is not None:
            least = self._least[location]
            return least < time or (least == time and self._is_fed(feeders, time))
        implied = self._implied[location]
        for element in implied.elements():
            if element == time:
                # TR1: own's frontier supports an element at most once; the rest is others'.
                return implied.count(time) > (1 if self._own[location].count(time) > 0 else 0)
            if element[0] <= time[0] and element[1:] <= time[1:]:
                return True
        return False

    def _is_fed(self, feeders: Sequence[_Feeder], time: Timestamp) -> bool:
        """Whether some step leads from a frontier to `time`."""
        for start, summary in feeders:
            for element in self._elements(start):
                if (element if summary is None else summary.results_in(element)) == time:
                    return True
        return False

    def _enqueue(self, location: int, changes: Sequence[TimeChange]) -> None:
        waiting = self._pending.get(location)
        if waiting is not None:
            if self._feeders[location] is not None:
                return
            # Never in place: a list may wait at several locations.
            self._pending[location] = [*waiting, *changes]
            return
        self._pending[location] = changes if self._feeders[location] is None else ()
        component = self._topology.component_of[location]
        if self._single[location] < 0:
            entered = self._entered.setdefault(component, [])
            entered.append(location)
            if len(entered) > 1:
                return
        heappush(self._agenda, component)

    def _settle_cycle(self, entered: Sequence[int], changed: list[int]) -> None:
        """Apply what is pending in one cyclic component, earliest first, until nothing is."""
        #: {(time, location): sum of deltas}; every key is in the heap once.
        sums: dict[tuple[Timestamp, int], int] = {}
        heap: list[tuple[Timestamp, int]] = []
        before: dict[int, tuple[Timestamp, ...]] = {}
        every_step = self._steps
        for location in entered:
            _schedule(sums, heap, location, self._pending.pop(location))
        while heap:
            key = heappop(heap)
            delta = sums.pop(key)
            if not delta:
                continue
            time, location = key
            implied = self._implied[location]
            if location not in before:
                before[location] = implied.elements()
            moved = implied.change(time, delta)
            if not moved:
                continue
            for to, summary, is_inside in every_step[location]:
                if not is_inside:
                    self._enqueue(to, moved if summary is None else _images(summary, moved))
                    continue
                # As `_schedule`, whose call would cost more than the one change there mostly is.
                for moment, change in moved:
                    key = (moment if summary is None else summary.results_in(moment), to)
                    if key in sums:
                        sums[key] += change
                    else:
                        sums[key] = change
                        heappush(heap, key)
        changed += [at for at in sorted(before) if before[at] != self._implied[at].elements()]


#: (next location, summary or None for the identity, whether it is in the same component)
_Step = tuple[int, PathSummary | None, bool]


def _compile_steps(topology: FrozenTopology, location: int) -> tuple[_Step, ...]:
    same = identity(topology.depths[location])
    part = topology.component_of
    return tuple(
        (to, None if summary == same else summary, part[to] == part[location])
        for to, summary in topology.steps[location]
    )


#: (previous location, summary or None for the identity)
_Feeder = tuple[int, PathSummary | None]


def _compile_feeders(topology: FrozenTopology, location: int) -> tuple[_Feeder, ...] | None:
    """Steps to a plain location; None of any other."""
    if topology.depths[location] > 1 or topology.is_cyclic[topology.component_of[location]]:
        return None
    return tuple(
        (start, None if summary == identity(topology.depths[start]) else summary)
        for start, steps in enumerate(topology.steps)
        for to, summary in steps
        if to == location
    )


def _images(summary: PathSummary, changes: Sequence[TimeChange]) -> list[TimeChange]:
    return [(summary.results_in(time), delta) for time, delta in changes]


def _schedule(
    sums: dict[tuple[Timestamp, int], int],
    heap: list[tuple[Timestamp, int]],
    location: int,
    changes: Sequence[TimeChange],
) -> None:
    """Add `changes` of `location` to those waiting in a cyclic component."""
    for time, delta in changes:
        key = (time, location)
        if key in sums:
            sums[key] += delta
        else:
            sums[key] = delta
            heappush(heap, key)
