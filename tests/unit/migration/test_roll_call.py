"""Who is given which slot when a job begins, and who is not there any more.

What ends a job is tested with the whole controller (test_controller*.py); here, processes that take
any slot.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.ids import Membership
from service.migration.members import RollCall
from service.migration.records import MemberDetails, MemberRecord, MemberState

WAIT_US, SILENCE_US = 60_000_000, 10_000_000
WAITING, STOPPED, FAILED = MemberState.WAITING, MemberState.STOPPED, MemberState.FAILED


def beat(slot, number, state=WAITING, *, address="", reason=None):
    """The heartbeat of boot `number`, from an address of its own unless one is given."""
    return MemberRecord(
        slot=slot,
        role=slot.partition("-")[0],
        incarnation=str(number),
        address=address or f"tcp://10.0.0.{number}:7070",
        state=state,
        heartbeat=0,
        details=MemberDetails(reason=reason),
    )


def roll_of(workers=2, gateways=1):
    return RollCall(Membership(workers, gateways), 0, WAIT_US, SILENCE_US)


def dealt(roll):
    """Boot by slot, as the generation's record says."""
    return {binding.slot: int(binding.incarnation) for binding in roll.begin()}


def test_who_comes_first_is_given_the_lowest_slot_of_its_role():
    roll = roll_of()
    for number, slot in enumerate(["worker-any", "gateway-any", "worker-any"], 1):
        assert roll.missing
        assert roll.seen(beat(slot, number)) is None
    assert roll.missing == []
    assert dealt(roll) == {"worker-0": 1, "worker-1": 3, "gateway-0": 2}


def test_a_slot_that_somebody_names_is_not_given_away():
    roll = roll_of(workers=3)
    for slot, number in [("worker-any", 1), ("worker-0", 2), ("worker-any", 3), ("gateway-0", 4)]:
        roll.seen(beat(slot, number))
    assert dealt(roll) == {"worker-0": 2, "worker-1": 1, "worker-2": 3, "gateway-0": 4}


def test_what_is_missing_are_the_slots_that_nobody_would_be_given():
    roll = roll_of(workers=4)
    roll.seen(beat("worker-1", 1))
    roll.seen(beat("worker-any", 2))
    assert roll.missing == ["worker-2", "worker-3", "gateway-0"]


def test_one_too_many_is_left_over_and_disturbs_nobody():
    roll = roll_of(workers=1, gateways=0)
    roll.seen(beat("worker-any", 1))
    roll.seen(beat("worker-any", 2))
    assert dealt(roll) == {"worker-0": 1}
    assert roll.seen(beat("worker-any", 2)) is None
    assert roll.seen(beat("worker-any", 2, FAILED, reason="no slot was left")) is None
    assert roll.seen(beat("worker-any", 1)) is None, "it has yet to read that it is worker-0"
    assert roll.passed(SILENCE_US) is None


def test_a_boot_that_came_back_at_its_address_is_there_once():
    roll = roll_of()
    roll.seen(beat("worker-any", 1, address="tcp://10.0.0.1:7070"))
    roll.seen(beat("worker-any", 2, address="tcp://10.0.0.1:7070"))
    roll.seen(beat("gateway-0", 3))
    assert roll.missing == ["worker-1"]
    roll.seen(beat("worker-any", 4))
    assert dealt(roll) == {"worker-0": 2, "worker-1": 4, "gateway-0": 3}


def test_who_stopped_or_fell_silent_while_waiting_is_given_nothing():
    roll = roll_of(workers=1)
    for number in (1, 2, 3):
        roll.seen(beat("worker-any", number))
    roll.seen(beat("gateway-any", 4))
    roll.seen(beat("worker-any", 1, STOPPED))
    for now in (SILENCE_US // 3, 2 * SILENCE_US // 3, SILENCE_US + 1):
        assert roll.passed(now) is None
        roll.seen(beat("worker-any", 3))
    assert roll.missing == ["gateway-0"]
    roll.seen(beat("gateway-any", 5))
    assert dealt(roll) == {"worker-0": 3, "gateway-0": 5}


def test_silence_does_not_count_while_the_controller_slept():
    roll = roll_of(workers=1, gateways=0)
    roll.seen(beat("worker-any", 1))
    assert roll.passed(5 * SILENCE_US) is None
    assert dealt(roll) == {"worker-0": 1}


def test_why_one_failed_while_waiting_is_the_problem():
    roll = roll_of()
    assert "a folder cannot be written" in str(
        roll.seen(beat("worker-any", 1, FAILED, reason="a folder cannot be written"))
    )


def test_who_was_given_a_slot_is_lost_like_any_other():
    roll = roll_of(workers=1, gateways=0)
    roll.seen(beat("worker-any", 1))
    roll.begin()
    assert roll.seen(beat("worker-0", 1, MemberState.RUNNING)) is None
    problems = [roll.passed(now * SILENCE_US // 3) for now in (1, 2, 3, 4)]
    assert problems[:3] == [None, None, None]
    assert str(problems[3]).startswith("worker-0 at tcp://10.0.0.1:7070 is lost")
    assert "worker-0 was started again" in str(roll.seen(beat("worker-0", 2)))


@given(
    st.lists(
        st.tuples(st.sampled_from(["worker", "gateway"]), st.sampled_from(["any", "0", "1", "2"])),
        max_size=12,
    )
)
def test_every_slot_is_played_by_one_boot_and_no_boot_plays_two(come):
    roll = roll_of(workers=3, gateways=2)
    for number, (role, text) in enumerate(come, 1):
        roll.seen(beat(f"{role}-{text}", number))
    if roll.missing:
        return
    bindings = roll.begin()
    assert [binding.slot for binding in bindings] == roll.slots
    boots = [int(binding.incarnation) for binding in bindings]
    assert len(set(boots)) == len(boots)
    for slot, boot in zip(roll.slots, boots, strict=True):
        role, text = come[boot - 1]
        assert slot in (f"{role}-{text}", slot if text == "any" else "")
        assert slot.startswith(role)
    assert roll.missing == []
