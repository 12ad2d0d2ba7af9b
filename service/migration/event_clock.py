"""W, the watermark of a vertex, as a function of the epoch: the same in every process.

Flow: gateways' words, each in an epoch it closes -> [EventClock.hear]; epoch after epoch, once it
is complete -> [EventClock.advance] -> W. Pure.

Invariants
  EC1  W(e) = max(W before e, the least of the newest words at epochs up to e): of each process and
       source one word, NEVER before its first. A word of None, from who reads no partition that
       speaks, is left out; if all are, W stays.
  EC2  W never falls, and depends on which words came at which epochs, and on nothing else.
  EC3  A watermark is lowered by `delay` when it is asked for, not when it is taken in.
Source: DESIGN §4 (watermarks).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

from service.statestore.timed import ALL, NEVER

_FORM = struct.Struct("<iiqB")


class Word(NamedTuple):
    """What a process tells of a source: no more rows below `watermark`, or that it knows none."""

    source: int
    peer: int
    watermark: int | None

    def encoded(self) -> bytes:
        """As it travels."""
        known = self.watermark is not None
        return _FORM.pack(self.source, self.peer, self.watermark or 0, known)

    @classmethod
    def decoded(cls, body: bytes) -> Word:
        """What `encoded` gave."""
        source, peer, watermark, known = _FORM.unpack(body)
        return cls(source, peer, watermark if known else None)


def lowered(watermark: int, delay: int) -> int:
    """A watermark for rows that come up to `delay` behind it (EC3)."""
    return watermark if watermark in (NEVER, ALL) else max(NEVER, watermark - delay)


class EventClock:
    """W of one vertex."""

    def __init__(self, peers: int, sources: Iterable[int], watermark: int = NEVER) -> None:
        """Begin at `watermark`; words come from all `peers`, for all `sources`."""
        #: W as of the last epoch advanced to.
        self.watermark = watermark
        #: The newest W that is no end of all input: what a restart goes on from.
        self.finite = watermark
        self._newest: dict[tuple[int, int], int | None] = {
            (source, peer): NEVER for source in sources for peer in range(peers)
        }
        #: Epochs with words that are not taken in, as a heap, and the words.
        self._epochs: list[int] = []
        self._words: dict[int, list[Word]] = {}
        #: Cuts to come, and W as of those that were passed.
        self._cuts: list[int] = []
        self._at: dict[int, int] = {}

    def hear(self, epoch: int, word: Word) -> None:
        """Take note of a word at `epoch`, which was not advanced to."""
        assert (word.source, word.peer) in self._newest, f"nobody listens to {word}"
        words = self._words.get(epoch)
        if words is None:
            words = self._words[epoch] = []
            heappush(self._epochs, epoch)
        words.append(word)

    def advance(self, epoch: int) -> tuple[int, int]:
        """W before `epoch` and at it (EC1); every word up to it has come, and epochs ascend."""
        while self._cuts and self._cuts[0] <= epoch:
            self._at[self._cuts.pop(0)] = self.finite
        before = self.watermark
        while self._epochs and self._epochs[0] <= epoch:
            for word in self._words.pop(heappop(self._epochs)):
                self._newest[word.source, word.peer] = word.watermark
        known = [value for value in self._newest.values() if value is not None]
        if known:
            self.watermark = max(before, min(known))
        if self.watermark != ALL:
            self.finite = self.watermark
        return before, self.watermark

    def mark(self, cut: int) -> None:
        """Remember W as of `cut`, which lies beyond all epochs advanced to; cuts ascend."""
        self._cuts.append(cut)

    def at(self, cut: int) -> int:
        """W of the last epoch below a cut that was marked; once nothing below it can come."""
        return self._at.get(cut, self.finite)

    def forget(self, cut: int) -> None:
        """A cut that was marked will not be asked for any more."""
        self._at.pop(cut, None)
        if cut in self._cuts:
            self._cuts.remove(cut)
