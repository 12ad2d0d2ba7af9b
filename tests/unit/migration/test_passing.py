"""The near half of S's gate: the old owner says when all that it emitted has passed.

Cannot catch: a process that misjudges what is under way in it (`holdings`); here that is set by
hand.
"""

from __future__ import annotations

import pytest

from service.errors import ProtocolViolation
from tests.fakes.control import move, promise
from tests.unit.migration.test_state_host import (
    COMMANDS,
    STATE_OUT,
    Host,
    chunks_of,
    state_of,
    told_of,
)


def test_new_owners_are_told_once_nothing_emitted_here_is_under_way() -> None:
    host = Host([0, 0, 0, 1], peer=0)
    host.ports.clear_to = 119
    host.read(move(120, (0, 2), (1, 1), (2, 2)), horizon=130)
    host.reach(120)
    sent = host.step()
    assert len(chunks_of(sent)) == 6
    assert told_of(sent) == []
    assert host.ports.is_asking
    assert host.ports.rights(STATE_OUT) == [(120,)]
    assert not host.host.settled
    host.ports.clear_to = 120
    assert told_of(host.step()) == [(120, 1), (120, 2)]
    assert host.ports.rights(STATE_OUT) == []
    assert host.host.settled


def test_new_owners_are_not_told_while_a_bin_of_the_cut_is_unsettled() -> None:
    """A row of it below the cut is still to be applied, and what it gives would be under way."""
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(115, (0, 5))
    host.step()
    host.hand.read(move(120, (0, 2), (1, 2)))
    host.ports.put(COMMANDS, 120, move(120, (0, 2), (1, 2)))
    host.reach(120)
    assert told_of(host.step()) == []
    assert not host.ports.is_asking
    host.hand.read(promise(130))
    assert told_of(host.step()) == [(120, 2)]


def test_new_owners_are_told_before_the_last_chunk_is_out() -> None:
    """Those of a large wave that have arrived need not wait for the others."""
    host = Host([0] * 8, peer=0)
    host.host.portion_bytes = 1
    host.read(move(120, *((bin_, 2) for bin_ in range(8))), horizon=130)
    host.reach(120)
    sent = host.step()
    assert told_of(sent) == [(120, 2)]
    assert len(chunks_of(sent)) == 1


def test_the_next_cut_leaves_when_the_one_before_has_passed() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.ports.clear_to = 119
    host.read(move(120, (0, 2)), move(140, (1, 2)), horizon=150)
    host.reach(140)
    assert {message.time[0] for message in host.step()} == {120}
    host.ports.clear_to = 140
    assert told_of(host.step()) == [(120, 2), (140, 2)]


def test_rows_wait_until_every_old_owner_has_said_that_what_it_emitted_has_passed() -> None:
    owners = [0, 2, 1, 1]
    host = Host(owners, peer=1)
    host.read(move(120, (0, 1), (1, 1)), horizon=200)
    host.rows(125, (0, 1), (1, 1))
    host.reach(120)
    host.send_state(120, state_of(120, owners, 0, [5], to=1), told=False)
    host.send_state(120, state_of(120, owners, 1, [6], to=1), sender=2, told=False)
    host.tell(120, sender=2)
    assert host.emitted() == []
    assert host.host.installed.all()
    host.tell(120, sender=0)
    assert host.emitted() == [(125, {0: (2, 6), 1: (2, 7)})]


@pytest.mark.parametrize(("cut", "sender"), [(121, 0), (120, 1), (120, 0)])
def test_word_of_what_has_passed_that_nobody_waits_for_is_a_violation(
    cut: int, sender: int
) -> None:
    """At another cut, from a stranger, or twice."""
    host = Host([0, 2, 1, 1], peer=1)
    host.read(move(120, (0, 1)), horizon=200)
    host.tell(120)
    host.step()
    host.tell(cut, sender)
    with pytest.raises(ProtocolViolation, match=f"peer {sender} says that .* below {cut} has"):
        host.step()
