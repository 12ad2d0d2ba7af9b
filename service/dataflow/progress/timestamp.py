"""Logical time: an epoch, then one counter for every loop around the place it is used at.

Flow: tick of a gateway -> Timestamp -> messages, capabilities, frontiers.
Pure: plain tuples and two relations.

Invariants
  TS1  A timestamp has one epoch (microseconds since 1970) and k >= 0 counters; none is negative.
  TS2  Two timestamps are comparable only at equal depth (1 + k), that is, in the same loop scope.
  TS3  `less_equal` is a partial order: epochs by <= AND the counters lexicographically.
  TS4  Python's order of tuples extends it: less_equal(a, b) implies a <= b. Heaps and sorted
       lists of timestamps may therefore use the native order.

Why lexicographic counters: one more round of an outer loop then comes after every round of the
loops inside, as it does in fact; component-wise, (e, 1, 0) and (e, 0, 5) would be unrelated, and
frontiers would grow by an element per nesting.

Source: Murray et al., "Naiad: A Timely Dataflow System", SOSP 2013, section 2.1.
"""

from __future__ import annotations

from typing import Final

Timestamp = tuple[int, ...]

#: Exclusive bound of an epoch and of a counter on the wire: they travel as 64-bit numbers.
COORDINATE_END: Final = 1 << 64


def less_equal(a: Timestamp, b: Timestamp) -> bool:
    """Whether `a` is not after `b` (TS3). Both have the same depth (TS2)."""
    assert len(a) == len(b), f"TS2: {a} and {b} belong to different loop scopes"
    return a[0] <= b[0] and a[1:] <= b[1:]


def less_than(a: Timestamp, b: Timestamp) -> bool:
    """Whether `a` is strictly before `b`: `less_equal` and different."""
    return a != b and less_equal(a, b)
