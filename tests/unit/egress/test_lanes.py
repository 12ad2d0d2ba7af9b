"""Lanes: order, one hand-over at a time, and that nothing stays behind.

Cannot catch: what the client does with a hand-over (tests/integration/test_producer.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from service.egress.lanes import ROWS, Lane


@dataclass(frozen=True)
class Part:
    number: int
    rows: int


class Client:
    """Keeps hand-overs until told that the oldest is stored."""

    def __init__(self) -> None:
        self.taken: list[list[Part]] = []
        self.under_way: deque[Callable[[], None]] = deque()
        self.most = 0

    def send(self, parts: Sequence[Part], stored: Callable[[], None]) -> None:
        self.taken.append(list(parts))
        self.under_way.append(stored)
        self.most = max(self.most, len(self.under_way))

    @property
    def numbers(self) -> list[int]:
        return [part.number for parts in self.taken for part in parts]


#: Rows of a batch to put, or None: the oldest hand-over is stored and the lane is served.
ACTIONS = st.lists(st.none() | st.integers(1, 2 * ROWS))


@given(ACTIONS)
def test_rows_leave_in_order_and_one_hand_over_is_under_way(actions: list[int | None]) -> None:
    client, put = Client(), 0
    lane = Lane[Part](client.send)
    for action in actions:
        if action is not None:
            lane.put(Part(put, action))
            put += 1
        elif client.under_way:
            client.under_way.popleft()()
            lane.serve()
        assert client.most <= 1
        # L3: nothing waits while there is room.
        assert len(client.numbers) == put or len(client.under_way) == 1
    while client.under_way:
        client.under_way.popleft()()
        lane.serve()
    assert client.numbers == list(range(put))
    assert all(len(parts) == 1 or sum(p.rows for p in parts) <= ROWS for parts in client.taken)


def test_what_waits_shares_a_hand_over() -> None:
    client = Client()
    lane = Lane[Part](client.send)
    for number in range(6):
        lane.put(Part(number, 10))
    assert [len(parts) for parts in client.taken] == [1]
    client.under_way.popleft()()
    assert len(client.taken) == 1, "a receipt alone hands nothing over: it is given amid a poll"
    lane.serve()
    assert [len(parts) for parts in client.taken] == [1, 5]


def test_a_batch_larger_than_a_hand_over_goes_alone() -> None:
    client = Client()
    lane = Lane[Part](client.send)
    for number, rows in enumerate([1, ROWS, ROWS + 1, 1]):
        lane.put(Part(number, rows))
    for _ in range(3):
        client.under_way.popleft()()
        lane.serve()
    assert [[part.rows for part in parts] for parts in client.taken] == [
        [1],
        *([ROWS], [ROWS + 1], [1]),
    ]
