"""S on its own: what is applied when, who may take a bin, and what waits for what.

Cannot catch: frontiers that are wrong; here they are set by hand.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.errors import ProtocolViolation
from service.hashing import bins_of
from service.migration.handover import PASSED, CutReport
from service.migration.records import Move
from service.migration.state_host import StateHost
from service.statestore.aggregate import AggregateProgram, Count, Sum
from service.statestore.vertex_store import VertexStore
from tests.fakes.control import FIRST, ControlHand, generation, move, promise
from tests.fakes.ports import Ports, Sent

DATA, STATE, COMMANDS = 0, 1, 2
OUT, STATE_OUT = 0, 1
GATE = 50


def key_of(bin_: int, bins: int, nth: int = 0) -> int:
    """The `nth` key, from 0 on, that falls into a bin."""
    found = np.flatnonzero(bins_of(np.arange(64 * bins), bins.bit_length() - 1) == bin_)
    return int(found[nth])


class Host:
    """One process's S, as worker `peer`."""

    def __init__(self, owners: list[int], peer: int, workers: int = 3) -> None:
        self.bins = len(owners)
        self.hand = ControlHand(generation(owners, workers=workers))
        program = AggregateProgram("key", {"n": Count(), "total": Sum("v")}, {"v": "int64"})
        self.store = VertexStore("stats", program, self.bins.bit_length() - 1)
        self.host = StateHost(self.store, "key", self.hand.source, self.bins)
        self.host.gate = [GATE]
        #: Cuts and old owners that have said that what they emitted has passed.
        self.told: set[tuple[int, int]] = set()
        #: Every bin on its own, unless a test says otherwise.
        self.host.group_bytes = 0
        self.ports = Ports(
            self.host,
            inputs=3,
            outputs=2,
            paths=[(2, 0), (2, 1), (0, 0), (1, 0)],
            routed=[1],
            start=(FIRST,),
            peers=workers + 1,
            peer=peer,
        )
        self.host.copies.least_bytes = 0

    def read(self, *moves: Move, horizon: int) -> None:
        """Read waves and then a promise; every wave reaches the control port."""
        self.hand.read(*moves, promise(horizon))
        for wave in moves:
            self.ports.put(COMMANDS, wave.at, wave)

    def rows(self, epoch: int, *rows: tuple[int, int], sender: int | None = None) -> None:
        """Rows of (bin, value), each under the bin's first key."""
        batch = pa.RecordBatch.from_pydict(
            {
                "key": pa.array([key_of(bin_, self.bins) for bin_, _ in rows], pa.int64()),
                "v": pa.array([value for _, value in rows], pa.int64()),
            }
        )
        self.ports.put(DATA, epoch, batch, sender)

    def step(self) -> list[Sent]:
        return self.ports.step()

    def emitted(self) -> list[tuple[int, dict[int, tuple[int, int]]]]:
        """Step; returns (epoch, {bin: (count, total)}) of each batch emitted."""
        found = []
        for sent in self.step():
            if sent.output == OUT:
                rows = sent.payload
                assert isinstance(rows, pa.RecordBatch)
                bins = bins_of(rows.column("key").to_numpy(), self.bins.bit_length() - 1).tolist()
                values = zip(rows["n"].to_pylist(), rows["total"].to_pylist(), strict=True)
                found.append((sent.time[0], dict(zip(bins, values, strict=True))))
        return found

    def reach(self, epoch: int, *, gate: int | None = None) -> None:
        """Move the frontiers of data and state, and the gate's."""
        self.ports.reach({DATA: epoch, STATE: epoch, GATE: epoch if gate is None else gate})

    def send_state(
        self, cut: int, chunks: list[Sent], sender: int = 0, *, told: bool = True
    ) -> None:
        """Put chunks that another host sent into the state port, and once that all has passed."""
        if told and (cut, sender) not in self.told:
            self.tell(cut, sender)
        for chunk in chunks:
            assert chunk.time == (cut,)
            self.ports.put(STATE, cut, chunk.payload, sender)

    def tell(self, cut: int, sender: int = 0) -> None:
        """Say, as an old owner, that what it emitted below the cut has passed."""
        self.told.add((cut, sender))
        self.ports.put(STATE, cut, PASSED, sender)


def chunks_of(sent: list[Sent]) -> list[Sent]:
    return [each for each in sent if each.output == STATE_OUT and each.payload != PASSED]


def told_of(sent: list[Sent]) -> list[tuple[int, int | None]]:
    """(cut, new owner) of each that was told that all has passed."""
    return [(each.time[0], each.peer) for each in sent if each.payload == PASSED]


def state_of(cut: int, owners: list[int], bin_: int, values: list[int], to: int) -> list[Sent]:
    """Chunks of one bin as its owner sends them, after it has absorbed `values`."""
    giver = Host(owners, owners[bin_])
    giver.rows(FIRST, *((bin_, value) for value in values))
    giver.read(move(cut, (bin_, to)), horizon=cut + 1)
    giver.reach(cut)
    return chunks_of(giver.step())


# Applying ---------------------------------------------------------------------------------------


def test_rows_of_hosted_bins_are_applied_on_arrival_at_their_own_time() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(20, (0, 5), (1, 7), (0, 1))
    host.rows(15, (1, 1))
    assert host.emitted() == [(20, {0: (2, 6), 1: (1, 7)}), (15, {1: (2, 8)})]
    assert host.ports.rights(OUT) == []
    assert host.host.rows_applied == 4


def test_rows_at_the_local_horizon_wait_without_credit_until_this_process_has_read_on() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(100, (0, 5), sender=3)
    host.rows(99, (0, 1), sender=3)
    assert host.emitted() == [(99, {0: (1, 1)})]
    assert host.ports.credited == [(3, 64), (3, 64)]
    assert host.ports.rights(OUT) == [(100,)]
    assert not host.host.settled
    assert host.host.held_bytes > 0
    host.hand.read(promise(101))
    assert host.ports.activations == 1
    assert host.emitted() == [(100, {0: (2, 6)})]
    assert host.ports.rights(OUT) == []
    assert host.host.settled
    assert host.host.held_bytes == 0


def test_rows_beyond_a_further_promise_go_on_waiting_and_nothing_overtakes_in_its_turn() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    for epoch in (150, 105, 160, 106):
        host.rows(epoch, (0, epoch))
    assert host.emitted() == []
    host.hand.read(promise(110))
    host.rows(107, (0, 1))
    assert [epoch for epoch, _ in host.emitted()] == [105, 106, 107]
    assert host.ports.rights(OUT) == [(150,), (160,)]
    host.hand.read(promise(170))
    assert host.ports.activations == 2
    assert [epoch for epoch, _ in host.emitted()] == [150, 160]


def test_without_room_below_nothing_is_pulled() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(20, (0, 5), sender=3)
    host.ports.full.add(OUT)
    assert host.step() == []
    assert host.ports.credited == []
    host.ports.full.clear()
    assert host.emitted() == [(20, {0: (1, 5)})]


def test_an_empty_batch_is_taken_and_nothing_is_emitted() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(20)
    host.hand.read(move(120, (2, 0)), promise(200))
    host.ports.put(COMMANDS, 120, move(120, (2, 0)))
    host.rows(125)
    assert host.emitted() == []
    assert host.ports.rights(OUT) == []


# Leaving ----------------------------------------------------------------------------------------


def test_a_bin_leaves_once_nothing_below_the_cut_can_arrive() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(20, (0, 5))
    host.read(move(120, (0, 2)), horizon=130)
    assert chunks_of(host.step()) == []
    assert host.ports.rights(STATE_OUT) == [(120,)]
    host.ports.reach({DATA: 120, STATE: 119})
    assert chunks_of(host.step()) == []
    host.ports.reach({DATA: 119, STATE: 120})
    assert chunks_of(host.step()) == []
    assert host.host.installed.tolist() == [True, True, False, False]
    host.reach(120)
    sent = chunks_of(host.step())
    assert {(message.time, message.peer) for message in sent} == {((120,), 2)}
    assert host.ports.rights(STATE_OUT) == []
    assert host.host.installed.tolist() == [False, True, False, False]
    assert host.store.rows(0) == 0
    assert host.host.settled


def test_a_wave_that_takes_nothing_from_here_keeps_no_right() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.read(move(120, (2, 2)), horizon=130)
    host.step()
    assert host.ports.rights(STATE_OUT) == []
    assert host.host.settled


def test_what_was_sent_is_what_the_next_owner_continues_from() -> None:
    owners = [0, 0, 1, 1]
    taker = Host(owners, peer=2)
    taker.read(move(120, (0, 2)), horizon=130)
    taker.send_state(120, state_of(120, owners, 0, [5, 6], to=2))
    taker.rows(120, (0, 1))
    taker.reach(120)
    assert taker.emitted() == [(120, {0: (3, 12)})]
    assert taker.host.installed.tolist() == [True, False, False, False]


def test_an_empty_bin_moves_too() -> None:
    owners = [0, 0, 1, 1]
    taker = Host(owners, peer=2)
    taker.read(move(120, (0, 2)), horizon=130)
    taker.send_state(120, state_of(120, owners, 0, [], to=2))
    taker.reach(120)
    taker.step()
    assert taker.host.installed[0]
    assert taker.host.settled


def test_rows_held_below_the_cut_keep_their_bin_here() -> None:
    """They came before this process had read the promise that lets them be applied."""
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(115, (0, 5))
    assert host.emitted() == []
    host.hand.read(move(120, (0, 2), (1, 2)))
    host.ports.put(COMMANDS, 120, move(120, (0, 2), (1, 2)))
    host.reach(120)
    sent = chunks_of(host.step())
    assert host.host.installed.tolist() == [True, False, False, False]
    assert host.ports.rights(STATE_OUT) == [(120,)]
    host.hand.read(promise(130))
    more = host.step()
    assert [message.time for message in more if message.output == OUT] == [(115,)]
    assert len(chunks_of(more)) == len(sent)
    assert host.ports.rights(STATE_OUT) == []


def test_a_bin_on_its_second_move_leaves_only_after_its_first_arrival_was_released() -> None:
    owners = [0, 0, 1, 1]
    middle = Host(owners, peer=2)
    middle.read(move(120, (0, 2)), move(140, (0, 1)), horizon=150)
    middle.rows(125, (0, 1))
    middle.reach(140, gate=119)
    assert middle.step() == []
    middle.send_state(120, state_of(120, owners, 0, [5], to=2))
    assert middle.step() == []  # installed, but the gate is closed and a row below 140 waits
    assert middle.ports.rights(STATE_OUT) == [(140,)]
    middle.reach(140, gate=120)
    sent = middle.step()
    assert [message.time[0] for message in sent] == [125, 140, 140, 140]
    last = Host(owners, peer=1)
    last.read(move(120, (0, 2)), move(140, (0, 1)), horizon=150)
    last.send_state(140, chunks_of(sent), sender=2)
    last.rows(141, (0, 100))
    last.reach(150)
    assert last.emitted() == [(141, {0: (3, 106)})]


def test_the_earlier_of_two_departures_goes_first() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.read(move(120, (0, 2)), move(140, (1, 2)), horizon=150)
    host.reach(130)
    assert {message.time[0] for message in chunks_of(host.step())} == {120}
    assert host.ports.rights(STATE_OUT) == [(140,)]
    host.reach(140)
    assert {message.time[0] for message in chunks_of(host.step())} == {140}


def test_chunks_wait_for_room_and_the_right_waits_with_them() -> None:
    host = Host([0, 0, 1, 1], peer=0)
    host.rows(20, (0, 5))
    host.read(move(120, (0, 2), (1, 2)), horizon=130)
    host.ports.full.add(STATE_OUT)
    host.reach(120)
    assert chunks_of(host.step()) == []
    assert host.ports.rights(STATE_OUT) == [(120,)]
    host.ports.full.clear()
    assert len(chunks_of(host.step())) == 4
    assert host.ports.rights(STATE_OUT) == []


def test_a_large_wave_is_sent_in_portions() -> None:
    host = Host([0] * 8, peer=0)
    host.host.portion_bytes = 1
    host.read(move(120, *((bin_, 2) for bin_ in range(8))), horizon=130)
    host.reach(120)
    for chunk in range(16):
        assert host.ports.resumptions == chunk
        assert len(chunks_of(host.step())) == 1
        assert host.ports.rights(STATE_OUT) == [(120,)]
    host.step()
    assert host.ports.rights(STATE_OUT) == []
    assert host.ports.resumptions == 16


# Arriving ---------------------------------------------------------------------------------------


def test_rows_of_an_arriving_bin_wait_and_those_of_others_do_not() -> None:
    host = Host([0, 0, 1, 1], peer=1)
    host.read(move(120, (0, 1)), horizon=200)
    host.rows(125, (0, 5), (2, 7), sender=3)
    host.rows(119, (2, 1), sender=3)
    assert host.emitted() == [(125, {2: (1, 7)}), (119, {2: (2, 8)})]
    assert host.ports.credited == [(3, 64), (3, 64)]
    assert host.ports.rights(OUT) == [(125,)]
    assert not host.host.settled


def test_rows_go_on_when_the_bin_is_there_and_everything_below_has_passed_the_cut() -> None:
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    host.read(move(120, (0, 1)), horizon=200)
    chunks = state_of(120, owners, 0, [5], to=1)
    host.rows(125, (0, 1))
    host.reach(120)
    assert host.emitted() == []  # the gate is open, the bin is not there
    host.reach(120, gate=119)
    host.send_state(120, chunks[:-1])
    assert host.emitted() == []
    assert not host.host.installed[0]
    host.send_state(120, chunks[-1:])
    assert host.emitted() == []  # the bin is there, the gate is closed
    assert host.host.installed[0]
    assert not host.host.settled
    host.rows(126, (0, 2))
    host.reach(120)
    assert host.emitted() == [(125, {0: (2, 6)}), (126, {0: (3, 8)})]
    assert host.ports.rights(OUT) == []
    assert host.host.settled


def test_rows_that_waited_leave_together_but_never_across_a_cut() -> None:
    """Bin 2 moves away at 140: what was held for before and after it must not mix."""
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    host.read(move(120, (0, 1)), move(140, (2, 0)), horizon=200)
    for epoch in (121, 122, 139, 141, 145):
        host.rows(epoch, (0, 1))
    host.reach(120, gate=119)
    assert host.emitted() == []
    assert host.ports.rights(OUT) == [(121,), (141,)]
    host.send_state(120, state_of(120, owners, 0, [5], to=1))
    host.reach(120)
    assert host.emitted() == [(139, {0: (4, 8)}), (145, {0: (6, 10)})]
    assert host.ports.rights(OUT) == []


def test_a_right_stays_at_or_before_every_row_that_waits() -> None:
    host = Host([0, 0, 1, 1], peer=1)
    host.read(move(120, (0, 1)), horizon=200)
    host.rows(130, (0, 1))
    host.step()
    assert host.ports.rights(OUT) == [(130,)]
    host.rows(125, (0, 1))
    host.step()
    assert host.ports.rights(OUT) == [(125,)]
    host.rows(128, (0, 1))
    host.step()
    assert host.ports.rights(OUT) == [(125,)]


def test_a_bin_that_comes_and_goes_and_comes_waits_for_each_arrival() -> None:
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    waves = move(120, (0, 1)), move(140, (0, 0)), move(160, (0, 1))
    host.read(*waves, horizon=200)
    host.rows(125, (0, 1))
    host.rows(165, (0, 10))
    host.send_state(120, state_of(120, owners, 0, [5], to=1))
    host.reach(130)
    assert host.emitted() == [(125, {0: (2, 6)})]
    assert host.ports.rights(OUT) == [(165,)]
    host.reach(140)
    away = chunks_of(host.step())
    assert {message.peer for message in away} == {0}
    other = Host(owners, peer=0)
    other.read(*waves, horizon=200)
    other.reach(120)
    other.step()
    other.send_state(140, away, sender=1)
    other.reach(160)
    host.send_state(160, [sent for sent in chunks_of(other.step()) if sent.time == (160,)])
    host.reach(160)
    assert host.emitted() == [(165, {0: (3, 16)})]


def test_bins_of_one_cut_are_released_as_they_come_and_reported_once() -> None:
    owners = [0] * 16
    moves = tuple((bin_, 1) for bin_ in range(16))
    giver = Host(owners, peer=0)
    giver.read(move(120, *moves), horizon=130)
    giver.reach(120)
    chunks = chunks_of(giver.step())
    first_bins = chunks[:4], chunks[4:]  # a bin is two chunks
    taker = Host(owners, peer=1)
    taker.read(move(120, *moves), horizon=130)
    taker.rows(125, *((bin_, 1) for bin_ in range(16)))
    taker.reach(120)
    taker.send_state(120, first_bins[0][:2])
    assert taker.emitted() == []  # one of sixteen is not worth a pass over all that waits
    taker.send_state(120, first_bins[0][2:])
    ((_, rows),) = taker.emitted()
    assert len(rows) == 2
    assert taker.host.reports == []
    taker.send_state(120, first_bins[1])
    ((_, rows),) = taker.emitted()
    assert len(rows) == 14
    sizes = sum(len(chunk.payload) for chunk in chunks if isinstance(chunk.payload, bytes))
    assert taker.host.reports == [CutReport("stats", 120, 16, sizes, 0)]


def together(owners: list[int], *moves: tuple[int, int]) -> tuple[Host, list[Sent]]:
    """A worker that has let bins with one row each leave at 120, small ones together."""
    giver = Host(owners, peer=0)
    giver.host.group_bytes = 1 << 18
    giver.rows(FIRST, *((bin_, 5) for bin_, owner in enumerate(owners) if owner == 0))
    giver.read(move(120, *moves), horizon=130)
    giver.reach(120)
    return giver, chunks_of(giver.step())


def test_small_bins_leave_as_one_chunk_and_come_together() -> None:
    owners = [0] * 16
    moves = tuple((bin_, 1) for bin_ in range(16))
    giver, chunks = together(owners, *moves)
    assert len(chunks) == 1
    assert giver.store.row_count == 0
    assert giver.host.settled
    taker = Host(owners, peer=1)
    taker.read(move(120, *moves), horizon=130)
    taker.rows(125, *((bin_, 1) for bin_ in range(16)))
    taker.reach(120)
    assert taker.emitted() == []
    taker.send_state(120, chunks)
    assert taker.emitted() == [(125, dict.fromkeys(range(16), (2, 6)))]
    size = len(chunks[0].payload)  # type: ignore[arg-type]  # chunks are bytes
    assert taker.host.reports == [CutReport("stats", 120, 16, size, 16)]


def test_bins_for_different_workers_and_those_not_settled_leave_apart() -> None:
    owners = [0] * 8
    host = Host(owners, peer=0)
    host.host.group_bytes = 1 << 18
    # Bin 2 comes back first, so that it is not here when the others leave.
    host.read(move(110, (2, 1)), move(115, (2, 0)), horizon=116)
    host.reach(115)
    host.step()
    moves = ((0, 1), (1, 1), (2, 1), (3, 2), (4, 2))
    host.read(move(120, *moves), horizon=200)
    host.reach(120)
    assert [chunk.peer for chunk in chunks_of(host.step())] == [2, 1]
    assert host.ports.rights(STATE_OUT) == [(120,)]


def test_a_chunk_with_a_bin_that_no_move_names_is_a_violation_and_changes_nothing() -> None:
    owners = [0] * 4
    _, chunks = together(owners, (0, 1), (1, 1))
    taker = Host(owners, peer=1)
    taker.read(move(120, (0, 1)), horizon=130)
    taker.reach(120)
    taker.send_state(120, chunks)
    with pytest.raises(ProtocolViolation, match=r"bins \[1, 0\] at 120 arrived, but no move names"):
        taker.step()
    assert taker.store.row_count == 0


def test_a_large_wave_is_taken_in_portions_between_which_rows_go_on() -> None:
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    host.host.portion_bytes = 1
    host.read(move(120, (0, 1), (1, 1)), horizon=130)
    host.reach(120)
    for bin_ in (0, 1):
        host.send_state(120, state_of(120, owners, bin_, [5], to=1), told=False)
    for left in (3, 2, 1, 0):
        host.rows(125, (2, 1))
        assert {2} <= {bin_ for _, rows in host.emitted() for bin_ in rows}
        assert len(host.ports.inputs[STATE].queue) == left
    assert host.ports.resumptions == 3
    host.tell(120)
    host.step()
    assert host.host.settled


def test_many_rows_that_waited_are_applied_in_batches() -> None:
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    host.host.drain_rows = 2
    host.read(move(120, (0, 1)), horizon=200)
    host.reach(120, gate=119)
    for epoch in range(121, 126):
        host.rows(epoch, (0, 1))
    host.step()
    host.send_state(120, state_of(120, owners, 0, [5], to=1))
    host.reach(120)
    assert host.emitted() == [(125, {0: (n, n + 4)}) for n in (3, 5, 6)]
    assert host.ports.rights(OUT) == []


def test_rows_that_may_go_but_find_no_room_are_not_overtaken() -> None:
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    host.read(move(120, (0, 1)), horizon=200)
    host.rows(125, (0, 1))
    host.reach(120, gate=119)
    host.step()
    host.send_state(120, state_of(120, owners, 0, [5], to=1))
    host.reach(120)
    host.ports.full.add(OUT)
    host.rows(130, (0, 10))
    assert host.emitted() == []
    host.ports.full.clear()
    assert host.emitted() == [(125, {0: (2, 6)}), (130, {0: (3, 16)})]


def test_a_chunk_that_no_move_names_ends_the_generation() -> None:
    owners = [0, 0, 1, 1]
    host = Host(owners, peer=1)
    chunks = state_of(120, owners, 0, [5], to=1)
    host.send_state(120, chunks, told=False)
    with pytest.raises(ProtocolViolation, match="bin 0 at 120 arrived, but no move names it"):
        host.step()
    host = Host(owners, peer=1)
    host.read(move(120, (1, 1)), horizon=130)
    host.send_state(120, chunks, told=False)
    with pytest.raises(ProtocolViolation, match="bin 0 at 120"):
        host.step()
