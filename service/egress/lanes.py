"""Gives the Kafka client a partition's rows one request at a time, so that it can rest.

Flow: KafkaSinkWriter -> [Lane], one a partition -> the client; receipts come back and let more go.

An idempotent client sends no further request for a partition while five messages of it, not five
requests, are unanswered; and as long as rows are queued behind them whose `linger.ms` is over, its
thread polls without waiting. That is a core per process, taken from the very broker that is to
answer when it is on this machine: a pause of some milliseconds became one of a second. So rows wait
here, and share a request when they go.

Invariants
  L1  Rows leave in the order they came.
  L2  One hand-over is under way at most; it is over when its last row is stored.
  L3  A lane with rows and room hands over at the next `serve`; whoever gave a receipt calls it.
  L4  A hand-over is a batch, or so many whole ones as have at most `ROWS` rows together.
Source: measured with librdkafka 2.16 (docs/benchmarks/main-job.md, "A broker that pauses").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

#: Rows of a hand-over put together from batches. About 900 are handed over within `linger.ms`, and
#: make one request; more come only where rows queue up, and then a fuller request is worth more.
ROWS = 4_096


class Sized(Protocol):
    """Rows of one batch that go to one partition."""

    @property
    def rows(self) -> int:
        """How many they are, at least one."""
        ...


Part = TypeVar("Part", bound=Sized)


class Lane(Generic[Part]):
    """The way to one partition; owned by one thread."""

    __slots__ = ("_send", "_under_way", "_waiting")

    def __init__(self, send: Callable[[Sequence[Part], Callable[[], None]], None]) -> None:
        """Hand over by `send(parts, stored)`, which calls `stored` once the last row is stored."""
        self._send = send
        self._waiting: deque[Part] = deque()
        self._under_way = False

    def put(self, part: Part) -> None:
        """Take rows, and let them go if there is room."""
        self._waiting.append(part)
        self.serve()

    def serve(self) -> None:
        """Hand over if there are rows and room (L2, L3)."""
        if self._waiting and not self._under_way:
            self._hand_over()

    def _hand_over(self) -> None:
        parts = [self._waiting.popleft()]
        rows = parts[0].rows
        while self._waiting and rows + self._waiting[0].rows <= ROWS:
            parts.append(self._waiting.popleft())
            rows += parts[-1].rows
        self._under_way = True
        self._send(parts, self._stored)

    def _stored(self) -> None:
        self._under_way = False
