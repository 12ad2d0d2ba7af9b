"""Strongly connected parts of the location graph, and the cycles among them that must not be.

Flow: edges of a topology -> [components] -> order in which the tracker settles locations;
      edges -> [find_stuck_cycle] -> refusal of the graph.
Pure: functions of adjacency lists.

A cycle's summary keeps k = the smallest `keep` of its steps and adds the increments of exactly
those steps that keep k. By `PathSummary.advances` it is therefore stuck iff
  (a) no step that keeps k increments, or
  (b) k = 1 and it passes a location deeper than 1: the epoch's increment resets a counter.
Both can be decided per level k without enumerating cycles: for (a) take the steps that keep >= k,
without the incrementing ones that keep k; a step that keeps k and has both ends in one component of
what is left lies on a stuck cycle, and every stuck cycle is found this way at its own k.

Invariants
  CY1  `components` lists components in topological order: edges lead to the same or a later one.
  CY2  `find_stuck_cycle` returns None iff every closed walk advances.
Cost: O(depth x (locations + edges)); no recursion, so a chain of any length is fine.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.dataflow.progress.summary import PathSummary

#: Per location: (next location, what the step does to timestamps).
Steps = Sequence[Sequence[tuple[int, PathSummary]]]


def components(successors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strongly connected components in topological order (CY1), by Tarjan's algorithm."""
    count = len(successors)
    index = [-1] * count
    low = [0] * count
    on_stack = [False] * count
    stack: list[int] = []
    found: list[list[int]] = []
    next_index = 0
    for root in range(count):
        if index[root] >= 0:
            continue
        walk: list[tuple[int, int]] = [(root, 0)]
        while walk:
            at, edge = walk.pop()
            if edge == 0:
                index[at] = low[at] = next_index
                next_index += 1
                stack.append(at)
                on_stack[at] = True
            else:
                low[at] = min(low[at], low[successors[at][edge - 1]])
            while edge < len(successors[at]):
                to = successors[at][edge]
                edge += 1
                if index[to] < 0:
                    walk += [(at, edge), (to, 0)]
                    break
                if on_stack[to]:
                    low[at] = min(low[at], index[to])
            else:
                if low[at] == index[at]:
                    found.append(_pop_component(stack, on_stack, at))
    found.reverse()
    return found


def _pop_component(stack: list[int], on_stack: list[bool], root: int) -> list[int]:
    members: list[int] = []
    while True:
        member = stack.pop()
        on_stack[member] = False
        members.append(member)
        if member == root:
            return sorted(members)


def find_stuck_cycle(steps: Steps, depths: Sequence[int]) -> list[int] | None:
    """Locations of one closed walk that does not advance, in order; None if there is none (CY2)."""
    for level in range(1, max(depths, default=0) + 1):
        kept = [
            [to for to, does in out if does.keep > level or does[:2] == (level, 0)] for out in steps
        ]
        label = _labels(kept)
        for at, out in enumerate(steps):
            for to, does in out:
                if does[:2] == (level, 0) and label[at] == label[to]:
                    return _path(kept, to, at)
    return _find_reset(steps, depths)


def _find_reset(steps: Steps, depths: Sequence[int]) -> list[int] | None:
    """A closed walk that raises the epoch and passes a location inside a loop, case (b)."""
    following = [[to for to, _ in out] for out in steps]
    label = _labels(following)
    deep = {label[at]: at for at in range(len(steps)) if depths[at] > 1}
    for at, out in enumerate(steps):
        for to, does in out:
            if does.keep == 1 and label[at] == label[to] and label[at] in deep:
                inside = deep[label[at]]
                return _path(following, to, inside)[:-1] + _path(following, inside, at)
    return None


def _labels(successors: Sequence[Sequence[int]]) -> list[int]:
    label = [0] * len(successors)
    for number, members in enumerate(components(successors)):
        for member in members:
            label[member] = number
    return label


def _path(successors: Sequence[Sequence[int]], start: int, end: int) -> list[int]:
    """Locations of a shortest path from `start` to `end`, both included; it must exist."""
    came_from = {start: start}
    queue = [start]
    for at in queue:
        if at == end:
            break
        for to in successors[at]:
            if to not in came_from:
                came_from[to] = at
                queue.append(to)
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]
