"""What a path through the dataflow does to a timestamp.

Flow: declared by operators (input -> output), composed along paths, applied by the tracker.
Pure: values and functions of values.

A summary keeps the first `keep` coordinates, adds `increment` to the last one kept, then appends
`tail`. Entering a loop appends a zero, leaving drops the last counter, feedback adds one to it; the
composition of any of these has the same shape again.

Invariants
  PS1  keep >= 1 (the epoch is never dropped), increment >= 0, every number of the tail >= 0.
  PS2  A summary is monotone: less_equal(a, b) implies less_equal(results_in(a), results_in(b)).
  PS3  (f.followed_by(g)).results_in(t) == g.results_in(f.results_in(t)) for every t deep enough.

Source: Murray et al., "Naiad: A Timely Dataflow System", SOSP 2013, section 2.3.
"""

from __future__ import annotations

from typing import NamedTuple

from service.dataflow.progress.timestamp import Timestamp


class PathSummary(NamedTuple):
    """The action of a path on timestamps.

    Attributes:
        keep: how many leading coordinates survive, >= 1.
        increment: added to the last surviving coordinate, >= 0.
        tail: coordinates appended afterwards.
    """

    keep: int
    increment: int
    tail: tuple[int, ...]

    def results_in(self, time: Timestamp) -> Timestamp:
        """Earliest timestamp at the end of the path for a message at `time` at its start."""
        keep, increment, tail = self
        assert keep <= len(time), f"PS1: {time} is too shallow for {self}"
        if increment:
            return (*time[: keep - 1], time[keep - 1] + increment, *tail)
        return time[:keep] + tail

    def followed_by(self, other: PathSummary) -> PathSummary:
        """Summary of this path and then the path of `other` (PS3)."""
        extra = other.keep - self.keep
        if extra < 0:
            return other
        if extra == 0:
            return PathSummary(self.keep, self.increment + other.increment, other.tail)
        assert extra <= len(self.tail), f"PS3: {other} does not fit behind {self}"
        middle = (*self.tail[: extra - 1], self.tail[extra - 1] + other.increment)
        return PathSummary(self.keep, self.increment, middle + other.tail)

    def advances(self, depth: int) -> bool:
        """Whether every timestamp of `depth` is strictly before its result at the same depth.

        Only then may a cycle have this summary. An increment of the epoch does not count inside a
        loop: it would reset the counters, and (e, 5) is not before (e + 1, 0) by TS3.
        """
        return self.increment > 0 and (self.keep > 1 or depth == 1)


def identity(depth: int) -> PathSummary:
    """The path that changes nothing; `depth` is the length of incoming timestamps."""
    assert depth >= 1, "PS1"
    return PathSummary(depth, 0, ())


def ingress(depth: int) -> PathSummary:
    """Enter a loop: append a counter at zero."""
    assert depth >= 1, "PS1"
    return PathSummary(depth, 0, (0,))


def egress(depth: int) -> PathSummary:
    """Leave a loop: drop the last counter of timestamps of length `depth` >= 2."""
    assert depth >= 2, "PS1"
    return PathSummary(depth - 1, 0, ())


def feedback(depth: int) -> PathSummary:
    """Go round a loop: add one to the last coordinate."""
    assert depth >= 1, "PS1"
    return PathSummary(depth, 1, ())
