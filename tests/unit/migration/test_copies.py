"""Bins that are copied before they move, at S alone: what is told when, and what counts.

Cannot catch: orders in which processes read the log; tests/simulation/test_copies.py draws them.
"""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.errors import StateCorrupt
from service.migration.handover import CopyReport
from service.migration.records import Move, PreCopy, PreCopyEnd
from tests.fakes.control import FIRST, move, stop
from tests.fakes.ports import Sent
from tests.unit.migration.test_state_host import DATA, Host, chunks_of, key_of

OWNERS = [0, 0, 1, 1]


def precopy(number: int, *moves: tuple[int, int]) -> PreCopy:
    return PreCopy(number=number, request="r", moves=list(moves), clock=FIRST)


def claiming(at: int, number: int, *moves: tuple[int, int]) -> Move:
    return Move(at=at, request="r", wave=1, waves=1, moves=list(moves), precopy=number, clock=FIRST)


def filled(host: Host, bin_: int, keys: int) -> None:
    """One row of each of the bin's first keys."""
    numbers = [key_of(bin_, host.bins, nth) for nth in range(keys)]
    batch = {"key": pa.array(numbers, pa.int64()), "v": pa.array([1] * keys, pa.int64())}
    host.ports.put(DATA, FIRST, pa.RecordBatch.from_pydict(batch))
    host.step()


def size(sent: Sent) -> int:
    assert isinstance(sent.payload, bytes)
    return len(sent.payload)


def pass_on(giver: Host, taker: Host) -> None:
    """Let the taker have what the giver said."""
    for _, body in giver.ports.said:
        taker.ports.say(0, body)
    giver.ports.said.clear()
    taker.step()


def test_a_copied_bin_leaves_as_what_changed_since() -> None:
    whole, giver, taker = Host(OWNERS, 0), Host(OWNERS, 0), Host(OWNERS, 2)
    for host in (whole, giver):
        filled(host, 0, 40)
    for host in (giver, taker):
        host.hand.read(precopy(1, (0, 2)))
    giver.step()
    assert {peer for peer, _ in giver.ports.said} == {2}
    assert giver.host.copies.reports == [CopyReport("stats", 1, 0)]
    pass_on(giver, taker)
    assert taker.store.rows(0) == 40
    assert not taker.host.installed[0]
    giver.rows(FIRST + 1, (0, 5))
    giver.step()
    for host in (giver, taker):
        host.read(claiming(120, 1, (0, 2)), horizon=130)
    whole.read(move(120, (0, 2)), horizon=130)
    for host in (whole, giver):
        host.reach(120)
    left, all_of_it = chunks_of(giver.step()), chunks_of(whole.step())
    assert sum(map(size, left)) < sum(map(size, all_of_it)) / 2
    taker.send_state(120, left)
    taker.rows(120, (0, 1))
    taker.reach(120)
    assert taker.emitted() == [(120, {0: (3, 7)})]
    assert taker.host.installed[0]
    assert giver.store.rows(0) == 0
    assert giver.host.copies.is_idle
    assert taker.host.copies.is_idle


def test_rounds_go_on_until_little_changes_and_before_a_cut_as_often_as_they_are_worth_it() -> None:
    giver, taker = Host(OWNERS, 0), Host(OWNERS, 2)
    giver.host.copies.few_keys = 0
    giver.host.copies.keys_of_a_bin = 2
    filled(giver, 0, 40)
    for host in (giver, taker):
        host.hand.read(precopy(1, (0, 2)))
    giver.host.copy_bytes = 500
    giver.step()
    assert giver.host.copies.reports == []
    giver.rows(FIRST, (0, 1))
    while not giver.host.copies.reports:
        giver.step()
    told = giver.host.copies.bytes_sent
    giver.rows(FIRST, (0, 1))
    giver.step()
    assert giver.host.copies.bytes_sent == told
    for host in (giver, taker):
        host.read(claiming(120, 1, (0, 2)), horizon=130)
    for keys, is_worth_a_round in ((2, False), (3, True), (2, False), (5, True)):
        told = giver.host.copies.bytes_sent
        filled(giver, 0, keys)
        giver.step()
        assert (giver.host.copies.bytes_sent > told) == is_worth_a_round
    assert len(giver.host.copies.reports) == 1
    filled(giver, 0, 2)
    pass_on(giver, taker)
    giver.reach(120)
    taker.send_state(120, chunks_of(giver.step()))
    taker.reach(120)
    taker.step()
    assert taker.host.installed[0]
    assert taker.store.rows(0) == 40


def test_no_more_is_told_than_there_is_room_for() -> None:
    giver = Host(OWNERS, 0)
    filled(giver, 0, 40)
    giver.ports.deaf.add(2)
    giver.hand.read(precopy(1, (0, 2)))
    giver.step()
    assert giver.ports.said == []
    giver.ports.deaf.clear()
    giver.step()
    assert len(giver.ports.said) == 1


def test_beside_rows_an_eighth_is_told_in_a_step_and_all_of_it_after_some_without() -> None:
    giver = Host(OWNERS, 0)
    giver.host.copy_bytes = 400
    filled(giver, 0, 60)
    giver.hand.read(precopy(1, (0, 2)))

    def told() -> int:
        before = giver.host.copies.bytes_sent
        giver.step()
        return giver.host.copies.bytes_sent - before

    beside = [told() for _ in range(15)]
    assert min(beside) >= 50
    assert max(beside) < 120
    assert 400 <= told() < 480
    giver.rows(FIRST, (0, 1))
    assert 50 <= told() < 120


def test_what_changes_all_the_time_before_a_cut_leaves_half_of_a_step_to_the_next_wave() -> None:
    giver = Host(OWNERS, 0)
    giver.host.copies.few_keys = giver.host.copies.keys_of_a_bin = 0
    giver.host.copy_bytes = 800
    filled(giver, 0, 20)
    filled(giver, 1, 50)
    giver.hand.read(precopy(1, (0, 2)))
    while not giver.host.copies.reports:
        giver.step()
    giver.read(claiming(120, 1, (0, 2)), horizon=130)
    giver.hand.read(precopy(2, (1, 2)))
    for _ in range(60):
        resumed, told = giver.ports.resumptions, giver.host.copies.bytes_sent
        filled(giver, 0, 20)
        assert giver.host.copies.bytes_sent > told
        assert giver.ports.resumptions > resumed, "there is more to tell"
    assert giver.host.copies.reports == [CopyReport("stats", 1, 0), CopyReport("stats", 2, 0)]


@pytest.mark.parametrize("ends", [PreCopyEnd(clock=FIRST), move(120, (0, 1)), stop(120)])
def test_a_copy_that_ends_is_dropped_and_what_still_comes_of_it_is_ignored(
    ends: PreCopyEnd | Move,
) -> None:
    giver, taker = Host(OWNERS, 0), Host(OWNERS, 2)
    filled(giver, 0, 40)
    for host in (giver, taker):
        host.hand.read(precopy(1, (0, 2)))
    giver.step()
    late = list(giver.ports.said)
    pass_on(giver, taker)
    assert taker.store.rows(0) == 40
    for host in (giver, taker):
        host.hand.read(ends)
    assert taker.store.rows(0) == 0
    assert giver.store.rows(0) == 40
    assert giver.host.copies.is_idle
    giver.ports.said += late
    pass_on(giver, taker)
    assert taker.store.rows(0) == 0
    assert len(taker.ports.credited) == 2


def test_what_comes_before_its_record_was_read_counts_and_a_later_number_begins_anew() -> None:
    giver, taker = Host(OWNERS, 0), Host(OWNERS, 2)
    filled(giver, 0, 40)
    giver.hand.read(precopy(1, (0, 2)))
    giver.step()
    pass_on(giver, taker)
    taker.hand.read(precopy(1, (0, 2)))
    assert taker.store.rows(0) == 40
    taker.hand.read(precopy(2, (0, 2)))
    assert taker.store.rows(0) == 0


def test_a_bin_moves_whole_where_its_copy_never_began() -> None:
    giver, taker = Host(OWNERS, 0), Host(OWNERS, 2)
    filled(giver, 0, 40)
    for host in (giver, taker):
        host.hand.read(precopy(1, (0, 2)))
        host.read(claiming(120, 1, (0, 2)), horizon=130)
        host.reach(120)
    giver.host.copy_bytes = 0
    taker.send_state(120, chunks_of(giver.step()))
    taker.step()
    assert taker.store.rows(0) == 40
    assert giver.host.copies.bins_completed == 0
    assert taker.host.settled


def test_a_damaged_frame_is_refused_as_a_whole() -> None:
    giver, taker = Host(OWNERS, 0), Host(OWNERS, 2)
    filled(giver, 0, 40)
    giver.hand.read(precopy(1, (0, 2)))
    giver.step()
    ((_, body),) = giver.ports.said
    taker.ports.say(0, body[:30] + bytes([body[30] ^ 1]) + body[31:])
    with pytest.raises(StateCorrupt, match="does not match its digest"):
        taker.step()
    assert taker.store.rows(0) == 0


def test_small_bins_are_not_copied_and_the_old_owner_says_at_once_that_it_is_ready() -> None:
    giver, taker = Host(OWNERS, 0), Host(OWNERS, 2)
    filled(giver, 0, 40)
    for host in (giver, taker):
        host.host.copies.least_bytes = giver.store.nbytes(0) + 1
        host.hand.read(precopy(1, (0, 2)))
    giver.step()
    assert giver.host.copies.reports == [CopyReport("stats", 1, 0)]
    assert giver.ports.said == []
    for host in (giver, taker):
        host.read(claiming(120, 1, (0, 2)), horizon=130)
        host.reach(120)
    chunks = chunks_of(giver.step())
    assert giver.host.copies.bins_completed == 0
    taker.send_state(120, chunks)
    taker.step()
    assert taker.store.rows(0) == 40
    assert taker.host.copies.is_idle
