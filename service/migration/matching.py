"""Waves of disjoint pairs: which senders and receivers may work beside one another.

Flow: parcels per (sender, receiver) -> [pair_waves] -> waves of pairs -> strategy. Pure.

Senders and receivers are the two sides of a bipartite multigraph, parcels its edges. Made regular
by edges that stand for idleness, it falls apart into perfect matchings, one per parcel of the
busiest worker: no order of waves can have fewer. Repeating a *maximum* matching instead may leave
the busiest worker out of one and then take longer than it must.

Invariants
  MT1  Each pair is in as many waves as it has parcels.
  MT2  In a wave a worker is named once: it sends or receives, to or from one other.
  MT3  If no worker both sends and receives, there are as many waves as the busiest has parcels.
Cost: one matching per pair and idle edge at most, however many parcels they have: 0.1 s for 65,536
bins of 2 workers or of a rescale of 64, and 1 s where each of 64 workers has some for every other.

Source: D. König, "Über Graphen und ihre Anwendung auf Determinantentheorie und Mengenlehre", 1916
(edge colouring); the matching is networkx's (Hopcroft and Karp, 1973).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

#: (sender, receiver), never the same worker.
Pair = tuple[int, int]
#: (place among the senders, place among the receivers).
_Edge = tuple[int, int]


def pair_waves(parcels: Mapping[Pair, int]) -> list[tuple[Pair, ...]]:
    """Cut parcels into waves in which no worker is named twice.

    Args:
        parcels: how many each pair has, each at least one.

    Returns:
        The pairs of each wave, of which each sends one parcel; ascending in senders.

    >>> pair_waves({(0, 1): 2, (2, 3): 1})
    [((0, 1), (2, 3)), ((0, 1),)]
    """
    waves: list[tuple[Pair, ...]] = []
    for pairs, times in _matchings(parcels):
        parts = _apart(pairs)
        waves.extend(tuple(sorted(part)) for _ in range(times) for part in parts)
    # Full waves first: what is left over at the end then waits for nobody.
    return sorted(waves, key=len, reverse=True)


def _matchings(parcels: Mapping[Pair, int]) -> Iterator[tuple[list[Pair], int]]:
    """Matchings that together use every parcel up, and how often each is taken."""
    if not parcels:
        return
    senders = sorted({sender for sender, _ in parcels})
    receivers = sorted({receiver for _, receiver in parcels})
    rows = {sender: place for place, sender in enumerate(senders)}
    columns = {receiver: place for place, receiver in enumerate(receivers)}
    left = Counter({(rows[s], columns[r]): count for (s, r), count in parcels.items()})
    side = max(len(senders), len(receivers))
    idle, rounds = _idleness(left, side)
    graph = _Bipartite(left.keys() | idle.keys(), side)
    while rounds:
        matched = graph.perfect_matching()
        # A parcel goes before idleness on the same edge: waves are filled from the front.
        times = min(left[edge] or idle[edge] for edge in matched)
        pairs = [(senders[s], receivers[r]) for s, r in matched if left[s, r]]
        for edge in matched:
            taken = left if left[edge] else idle
            taken[edge] -= times
            if not (left[edge] or idle[edge]):
                graph.remove(edge)
        rounds -= times
        if pairs:
            yield pairs, times


def _idleness(parcels: Counter[_Edge], side: int) -> tuple[Counter[_Edge], int]:
    """Edges that give every place of both sides as many as the busiest has, and that number."""
    sent, received = [0] * side, [0] * side
    for (sender, receiver), count in parcels.items():
        sent[sender] += count
        received[receiver] += count
    rounds = max(*sent, *received)
    idle: Counter[_Edge] = Counter()
    receiver = 0
    for sender in range(side):
        while sent[sender] < rounds:
            count = min(rounds - sent[sender], rounds - received[receiver])
            if count:
                idle[sender, receiver] += count
                sent[sender] += count
                received[receiver] += count
            if received[receiver] == rounds:
                receiver += 1
    return idle, rounds


class _Bipartite:
    """The graph of what is left, each edge once; places of a side are numbered from 0."""

    def __init__(self, edges: set[_Edge], side: int) -> None:
        # Imported where it is needed: only a controller with such a plan pays for it.
        from networkx import Graph

        self._side = side
        self._graph = Graph()
        # Whole numbers in order: the same parcels give the same waves in every process.
        self._graph.add_nodes_from(range(2 * side))
        self._graph.add_edges_from((s, side + r) for s, r in sorted(edges))

    def remove(self, edge: _Edge) -> None:
        """Forget an edge that is used up."""
        self._graph.remove_edge(edge[0], self._side + edge[1])

    def perfect_matching(self) -> list[_Edge]:
        """A matching of every place; there is one while the multigraph is regular (Hall)."""
        from networkx.algorithms.bipartite import hopcroft_karp_matching

        partner = hopcroft_karp_matching(self._graph, range(self._side))
        assert len(partner) == 2 * self._side, "MT3: regular, so there is a perfect matching"
        return [(place, partner[place] - self._side) for place in range(self._side)]


def _apart(pairs: list[Pair]) -> list[list[Pair]]:
    """Part a matching so that nobody sends and receives in one part (MT2).

    A matching is made of chains and rings of workers; every second link of a chain may stay
    together, and a ring of odd length has one link over.
    """
    onward = dict(pairs)
    receivers = set(onward.values())
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    heads = sorted(onward.keys() - receivers)
    for head in [*heads, *sorted(onward.keys() & receivers)]:
        place, sender = 0, head
        while sender in onward:
            receiver = onward.pop(sender)
            closes_odd_ring = receiver == head and place % 2 == 0
            parts[2 if closes_odd_ring else place % 2].append((sender, receiver))
            place, sender = place + 1, receiver
    return [part for part in parts if part]
