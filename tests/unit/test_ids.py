"""Names of slots and their places among the peers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UsageError
from service.ids import Membership, Role, Slot


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("worker-0", Slot(Role.WORKER, 0)),
        ("gateway-12", Slot(Role.GATEWAY, 12)),
        ("controller", Slot(Role.CONTROLLER, 0)),
    ],
)
def test_a_slot_is_read_as_it_is_written(text: str, slot: Slot) -> None:
    assert Slot.parse(text) == slot
    assert str(slot) == text


@pytest.mark.parametrize(
    "text", ["", "worker", "worker-", "worker--1", "worker-1 ", "Worker-1", "controller-0", "w-1"]
)
def test_what_is_no_slot_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match="expected worker-N, gateway-N or controller"):
        Slot.parse(text)


@given(st.integers(0, 50), st.integers(0, 50))
def test_peers_are_all_workers_and_then_all_gateways(workers: int, gateways: int) -> None:
    members = Membership(workers, gateways)
    slots = [members.slot(peer) for peer in range(members.peers)]
    assert slots == [Slot(Role.WORKER, w) for w in range(workers)] + [
        Slot(Role.GATEWAY, g) for g in range(gateways)
    ]
    assert [members.peer(slot) for slot in slots] == list(range(members.peers))


@pytest.mark.parametrize("text", ["worker-2", "gateway-1", "controller"])
def test_who_is_no_member_has_no_place(text: str) -> None:
    with pytest.raises(UsageError, match=f"{text} is no member of a job with 2 workers"):
        Membership(2, 1).peer(Slot.parse(text))
