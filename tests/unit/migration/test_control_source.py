"""What a process knows of the log, and what it lets others conclude from that.

Cannot catch: a shell that reads the log twice or not at all.
"""

from __future__ import annotations

import pytest

from service.errors import ProtocolViolation
from service.migration.horizon import HORIZON_END
from tests.fakes.control import READER, ControlHand, generation, move, promise, stop


@pytest.fixture
def hand() -> ControlHand:
    return ControlHand()


def test_it_holds_the_horizon_of_the_generation_and_then_each_promise(hand: ControlHand) -> None:
    assert hand.ports.rights(0) == [(100,)]
    hand.read(promise(150))
    assert hand.ports.rights(0) == [(150,)]
    hand.read(promise(150))
    assert hand.ports.rights(0) == [(150,)]


def test_a_command_is_sent_at_its_time_and_known_to_the_table_before(hand: ControlHand) -> None:
    command = move(120, (0, 1))
    hand.source.feed(command)
    assert hand.table.moves_at(120) != ()
    (sent,) = hand.ports.step()
    assert (sent.time, sent.payload) == ((120,), command)
    assert hand.ports.rights(0) == [(100,)]


def test_a_promise_beyond_a_command_follows_the_command(hand: ControlHand) -> None:
    """Both were read between two steps; the right to the command's time goes last."""
    hand.source.feed(move(120, (0, 1)))
    hand.source.feed(promise(150))
    (sent,) = hand.ports.step()
    assert sent.time == (120,)
    assert hand.ports.rights(0) == [(150,)]


def test_after_a_stop_it_holds_nothing(hand: ControlHand) -> None:
    last = stop(130)
    hand.read(move(120, (0, 1)), last)
    assert [sent.time for sent in hand.ports.sent] == [(120,), (130,)]
    assert hand.ports.rights(0) == []
    assert hand.source.stop == last
    assert hand.follower.horizon == HORIZON_END
    assert hand.ports.step() == []


def test_the_stop_is_known_once_it_was_sent(hand: ControlHand) -> None:
    hand.source.feed(stop(130))
    assert hand.source.stop is None


def test_a_log_that_breaks_its_rules_changes_nothing(hand: ControlHand) -> None:
    hand.read(promise(150))
    with pytest.raises(ProtocolViolation, match="HZ2"):
        hand.source.feed(move(140, (0, 1)))
    assert hand.ports.step() == []
    assert hand.table.cuts_after(0) == ()


def test_whoever_asked_is_called_once_when_the_horizon_has_risen(hand: ControlHand) -> None:
    called: list[str] = []

    def router() -> None:
        called.append("F")

    hand.source.at_next_horizon(router)
    hand.source.at_next_horizon(router)
    hand.read(promise(100), move(120, (0, 1)))
    assert called == []
    hand.read(promise(121))
    assert called == ["F"]
    hand.read(promise(150))
    assert called == ["F"]


def test_the_table_forgets_what_no_reader_can_ask_for(hand: ControlHand) -> None:
    hand.source.readers.append(8)
    hand.ports.reach({READER: 115, 8: 300})
    hand.read(move(110, (0, 1)), move(120, (0, 0)), promise(200))
    assert hand.table.since == 115
    assert hand.table.moves_at(120) != ()
    hand.ports.reach({READER: 130})
    hand.read(promise(201))
    assert hand.table.since == 130
    assert hand.table.owner(0, 130) == 0


def test_a_finished_reader_keeps_nothing_and_no_table_forgets_beyond_the_horizon() -> None:
    hand = ControlHand(generation())
    hand.ports.reach({READER: None})
    hand.read(move(110, (0, 1)), promise(105))
    assert hand.table.since == 105
    assert hand.table.moves_at(110) != ()


def test_a_table_nobody_reads_stays_small() -> None:
    hand = ControlHand()
    hand.source.readers.clear()
    for wave in range(1, 50):
        hand.read(move(100 + 2 * wave, (0, wave % 2)), promise(101 + 2 * wave))
    assert len(hand.table.cuts_after(0)) <= 1
