"""Properties of credit: bounded, never negative, all returned, never stuck (CR1 to CR3)."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.transport.credit import CreditReturns, CreditWindow


class Exchange:
    """One sender, one receiver, frames and credits under way between them."""

    def __init__(self, capacity, sizes):
        self.capacity = capacity
        self.largest = max(sizes, default=1)
        self.window = CreditWindow(capacity)
        self.returns = CreditReturns(capacity)
        self.unsent = deque(sizes)
        self.frames = deque()
        self.credits = deque()

    def send(self):
        if self.unsent and self.window.can_send():
            assert self.window.try_take(self.unsent[0])
            self.frames.append(self.unsent.popleft())

    def consume(self):
        if self.frames:
            self.give(self.returns.consumed(self.frames.popleft()))

    def flush(self):
        self.give(self.returns.flush())

    def accept(self):
        if self.credits:
            self.window.give_back(self.credits.popleft())

    def give(self, amount):
        if amount:
            self.credits.append(amount)

    def check(self):
        outstanding = self.window.outstanding
        assert 0 <= outstanding < self.capacity + self.largest
        assert outstanding == sum(self.frames) + sum(self.credits) + self.returns.owed
        assert self.window.available == max(0, self.capacity - outstanding)


@given(
    capacity=st.integers(1, 10_000),
    sizes=st.lists(st.integers(1, 20_000), max_size=60),
    steps=st.lists(st.sampled_from(["send", "consume", "accept", "flush"]), max_size=300),
)
def test_credit_is_bounded_and_comes_back(capacity, sizes, steps):
    exchange = Exchange(capacity, sizes)
    for step in steps:
        getattr(exchange, step)()
        exchange.check()
    # From any state, consuming and accepting returns, without a flush, lets all frames out.
    while exchange.unsent:
        before = len(exchange.unsent)
        for _ in range(len(exchange.frames)):
            exchange.consume()
        for _ in range(len(exchange.credits)):
            exchange.accept()
        exchange.send()
        exchange.check()
        assert len(exchange.unsent) < before
    for _ in range(len(exchange.frames)):
        exchange.consume()
    exchange.flush()
    for _ in range(len(exchange.credits)):
        exchange.accept()
    assert exchange.window.outstanding == 0
    assert exchange.returns.owed == 0


@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 10_000))
def test_returns_are_few(sizes, capacity):
    returns = CreditReturns(capacity)
    given_back = [amount for size in sizes if (amount := returns.consumed(size))]
    assert sum(given_back) + returns.owed == sum(sizes)
    assert len(given_back) <= sum(sizes) / max(1, capacity // 8)
