"""Windows of credit."""

from __future__ import annotations

import pytest

from service.dataflow.transport.credit import (
    CreditReturns,
    CreditWindow,
    charge_of,
    decode_credit,
    encode_credit,
)
from service.errors import ProtocolViolation


def test_a_window_overshoots_by_one_frame_and_no_more():
    window = CreditWindow(100)
    assert window.try_take(99)
    assert window.can_send()
    assert window.try_take(5000)
    assert window.outstanding == 5099
    assert window.available == 0
    assert not window.can_send()
    assert not window.try_take(1)
    assert window.outstanding == 5099


def test_a_window_opens_again_when_enough_came_back():
    window = CreditWindow(100)
    assert window.try_take(150)
    window.give_back(50)
    assert not window.can_send()
    window.give_back(1)
    assert window.can_send()
    assert window.available == 1


@pytest.mark.parametrize("amount", [0, 11, 2**64 - 1])
def test_more_credit_than_was_taken_is_a_violation(amount):
    window = CreditWindow(100)
    window.try_take(10)
    with pytest.raises(ProtocolViolation, match="10 were under way"):
        window.give_back(amount)


def test_small_returns_are_collected_to_an_eighth_of_the_window():
    returns = CreditReturns(800)
    assert [returns.consumed(30) for _ in range(8)] == [0, 0, 0, 120, 0, 0, 0, 120]
    assert returns.consumed(7) == 0
    assert returns.owed == 7
    assert returns.flush() == 7
    assert returns.flush() == 0


def test_an_empty_body_still_costs_something():
    assert charge_of(0) > 0
    assert charge_of(10) == charge_of(0) + 10


def test_credit_travels_as_eight_bytes():
    assert decode_credit(encode_credit(12345)) == 12345
    for bad in (b"", b"1234567", b"123456789"):
        with pytest.raises(ProtocolViolation):
            decode_credit(bad)
